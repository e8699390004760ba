"""From what obstore raises to the family of :mod:`stores.errors`, in one readable line.

An obstore error is one class for many causes, and a text: a sentence, the answer of the server, and
a debug print of the whole, with addresses in it.  The status and the server's own code are taken
from the text; addresses never are, because a query string may be a signature.
"""

from __future__ import annotations

import dataclasses
import errno
import re

from obstore import exceptions as obstore_errors

from stores.errors import (
    AlreadyExists,
    BadLocation,
    Corrupt,
    Denied,
    InvalidKey,
    NoSpace,
    NotFound,
    Precondition,
    StoreError,
    Unavailable,
    Unsupported,
)

__all__ = ["OBSTORE_ERRORS", "Failure", "UnlistableKey", "failure_of", "translate"]

OBSTORE_ERRORS = (obstore_errors.BaseError, OSError, NotImplementedError, ValueError)
"""Everything that a call of obstore raises for what happened outside of this process."""

_STATUS = re.compile(r"non-2xx status code: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_TEXT = re.compile(r"<Message>\s*([^<\n]{1,200})")
_REGION = re.compile(r"<Region>\s*([\w-]+)\s*</Region>|expecting '([\w-]+)'")
_OS_CODE = re.compile(r"\bcode: (\d+)|\(os error (\d+)\)")
_BAD_PATH = re.compile(r'Path "(.*?)" contained|parsing path segment "(.*?)"')

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound")
_NO_ACCESS = (
    *("AccessDenied", "AuthorizationFailure", "AuthenticationFailed", "ExpiredToken", "InvalidAccessKeyId"),
    *("InvalidToken", "NoAuthenticationInformation", "PublicAccessNotPermitted", "SignatureDoesNotMatch"),
    "TokenRefreshRequired",
)
_OTHER_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")
_FULL = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "AccountQuotaExceeded")
_PARTS_GONE = ("NoSuchUpload", "InvalidBlockList")
_CLOCK = ("RequestTimeTooSkewed",)
_TRUST = ("invalid peer certificate", "UnknownIssuer", "NotValidForName", "CertExpired")
_METADATA_SERVICE = re.compile(
    r"Error performing \w+ \S*(?:/latest/api/token|/latest/meta-data/|/computeMetadata/|/metadata/identity/)"
)

NO_CREDENTIALS = "pass a key and a secret, or anon=True for public data"


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """What the text of an obstore error tells.

    Attributes
    ----------
    status : int or None
        Of the HTTP answer, where there was one.
    code : str
        The server's own word for it, such as ``NoSuchBucket``, else empty.
    said : str
        The server's sentence, else empty.
    os_code : int or None
        The ``errno`` of a local file system or of a connection.
    text : str
        The whole text; for looking into, not for showing.
    """

    status: int | None
    code: str
    said: str
    os_code: int | None
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Read the text of `error`."""
        text = str(error)
        plain = text.partition("\n\nDebug source:")[0]
        status, code, said = _STATUS.search(plain), _CODE.search(plain), _TEXT.search(plain)
        system = _OS_CODE.search(text.replace(status[0], "") if status else text)
        return cls(
            int(status[1] or status[2]) if status else None,
            code[1] if code else "",
            " ".join(said[1].split()).rstrip(".") if said else "",
            int(system[1] or system[2]) if system and not status else None,
            text,
        )

    @property
    def no_bucket(self) -> bool:
        """Whether it is the bucket or container that is missing."""
        return self.code in _NO_BUCKET or "specified container does not exist" in self.text

    @property
    def bad_range(self) -> bool:
        """Whether a range began at or after the end of the object."""
        return self.status == 416 or "StartTooLarge" in self.text or "Wanted range starting at" in self.text

    @property
    def whole_answer(self) -> bool:
        """Whether the server ignored a range and sent everything."""
        return "NotPartial" in self.text or "RangeNotSupported" in self.text

    @property
    def quoted_tags_refused(self) -> bool:
        """Whether a RADOS Gateway answered 412; older ones never match an ETag in quotes."""
        return self.status == 412 and re.search(r"<RequestId>tx[0-9a-f]{21}-", self.text) is not None

    @property
    def tells(self) -> str:
        """The server's answer in a few words."""
        words = self.code or (f"status {self.status}" if self.status else "")
        return f"{words}: {self.said}" if self.said and words else words


def failure_of(error: StoreError) -> Failure:
    """Return what obstore told of an error; nothing, if it was not obstore that told."""
    return Failure.of(error.__cause__ or Exception())


def translate(error: BaseException, key: str | None, *, place: str, endpoint: str, bucket: str) -> StoreError:
    """Return the error of our family for one that obstore raised.

    Parameters
    ----------
    error : BaseException
        One of `OBSTORE_ERRORS`.
    key : str, optional
        What was asked for.
    place : str
        The location of the store, without secrets.
    endpoint : str
        The server, without secrets, for messages about the network.
    bucket : str
        What to call the bucket, such as ``"bucket 'data'"``; empty for stores without.

    Returns
    -------
    StoreError
        To be raised ``from error``.
    """
    failure = Failure.of(error)
    if _METADATA_SERVICE.search(failure.text):
        # Its last resort: the service that gives credentials to virtual machines in the cloud.
        return Denied(f"no credentials found: {NO_CREDENTIALS}", key=key)
    if failure.no_bucket:
        # Not NotFound: the key may be there again as soon as the bucket is.
        return Unavailable(f"there is no {bucket or 'bucket'} at {endpoint}", key=key)
    if failure.status == 507 or failure.code in _FULL:
        return NoSpace(f"the store is full or over its quota ({failure.tells})", key=key)
    if failure.code in _PARTS_GONE:
        # Aborted by somebody else, or completed by a request whose answer was lost: not known which.
        return Unavailable("the parts that were sent are gone: it may be stored, or not", key=key)
    found = _by_class(error, failure, key)
    if found is not None:
        return found
    if failure.status is not None:
        return _by_status(failure, key, place)
    if failure.os_code is not None and "LocalFileSystem" in failure.text:
        return _by_errno(failure.os_code, key)
    return _without_answer(failure, key, place, endpoint)


def denied(failure: Failure, key: str | None) -> Denied:
    """Say that the server refuses, and what may help."""
    if failure.code in _CLOCK:
        return Denied("the clock of this machine differs too much from the server's", key=key)
    advice = {
        "InvalidAccessKeyId": "the access key is not known there",
        "SignatureDoesNotMatch": "the secret does not belong to the access key",
        "ExpiredToken": "the session token has expired: get a new one",
        "AuthenticationFailed": "the account key or SAS token is not right",
        "AuthorizationFailure": "the account key or SAS token is not right",
    }.get(failure.code, f"check the rights of the credentials; {NO_CREDENTIALS}")
    tells = failure.tells
    return Denied(f"access denied{f' ({tells})' if tells else ''}: {advice}", key=key)


class UnlistableKey(Corrupt):
    """A listing of obstore's broke off at a key that is no path to it, such as ``a//b``."""


def _by_class(error: BaseException, failure: Failure, key: str | None) -> StoreError | None:
    if isinstance(error, FileNotFoundError):
        return NotFound("there is no such object", key=key)
    if isinstance(error, obstore_errors.AlreadyExistsError):
        return AlreadyExists("the key is taken", key=key)
    if isinstance(error, (obstore_errors.PreconditionError, obstore_errors.NotModifiedError)):
        return Precondition("it is not of that version any more", key=key)
    if isinstance(error, (obstore_errors.PermissionDeniedError, obstore_errors.UnauthenticatedError)):
        return denied(failure, key)
    if isinstance(error, (NotImplementedError, obstore_errors.NotSupportedError)):
        return Unsupported("this kind of store cannot do that", key=key)
    bad = _BAD_PATH.search(failure.text)
    if isinstance(error, obstore_errors.InvalidPathError):
        name = f" {bad[1] or bad[2]!r}" if bad else ""
        return UnlistableKey(f"it holds a key{name} that is no path, and obstore cannot list it", key=key)
    if isinstance(error, ValueError):
        return InvalidKey("object stores cannot hold a key with such characters", key=key)
    return None


def _by_status(failure: Failure, key: str | None, place: str) -> StoreError:
    status, tells = failure.status or 0, failure.tells
    if failure.code in _OTHER_REGION or (status in {301, 307} and not failure.code):
        region = _REGION.search(failure.text)
        name = (region[1] or region[2]) if region else "..."
        return BadLocation(f"{place} is in another region: pass region={name}")
    if status in {401, 403} or failure.code in _NO_ACCESS or failure.code in _CLOCK:
        return denied(failure, key)
    simple: dict[int, tuple[type[StoreError], str]] = {
        404: (NotFound, "there is no such object"),
        405: (Unsupported, "the server does not allow that"),
        409: (AlreadyExists, f"something is in its way ({tells})"),
        412: (Precondition, "it is not of that version any more"),
        413: (Unsupported, "too large for the server"),
        501: (Unsupported, "the server cannot do that"),
    }
    if status in simple:
        kind, message = simple[status]
        return kind(message, key=key)
    if failure.code == "EntityTooLarge":
        return Unsupported("too large for the server", key=key)
    if failure.code == "KeyTooLongError":
        return InvalidKey("the key is too long for the server", key=key)
    if failure.code == "SlowDown" or status in {429, 503}:
        return Unavailable(f"the server asks to slow down ({tells})", key=key)
    return Unavailable(f"the server answered with an error ({tells})", key=key)


def _by_errno(code: int, key: str | None) -> StoreError:
    if code in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}:
        return NotFound("there is no such object", key=key, os_errno=code)
    if code in {errno.EACCES, errno.EPERM}:
        return Denied("permission denied", key=key, os_errno=code)
    if code in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace("the disk is full", key=key, os_errno=code)
    if code in {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}:
        return InvalidKey("the file system cannot hold this name", key=key, os_errno=code)
    return Unavailable(f"the file system failed ({errno.errorcode.get(code, code)})", key=key, os_errno=code)


def _without_answer(failure: Failure, key: str | None, place: str, endpoint: str) -> StoreError:
    text = failure.text
    if "incorrectly configured region" in text:
        return BadLocation(f"{place} is in another region: pass region=...")
    if "Config error" in text or "builder error" in text:
        wrong_key = "Invalid Access Key" in text
        return BadLocation(
            "the account key is not base64" if wrong_key else f"{endpoint} is no usable address"
        )
    if any(sign in text for sign in _TRUST):
        reason = "its certificate is not trusted"
    elif "ConnectionRefused" in text:
        reason = "the connection was refused"
    elif "dns error" in text or "failed to lookup" in text:
        reason = "the name of the host cannot be resolved"
    elif "TimedOut" in text or "kind: Timeout" in text:
        reason = "it took too long"
    elif "error sending request" in text:
        reason = "the connection failed"
    else:
        reason = "the answer was cut short or not understood"
    return Unavailable(f"no answer from {endpoint}: {reason}", key=key)
