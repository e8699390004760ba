"""The table from errors to errno, and deadlines."""

from __future__ import annotations

import errno
import inspect

import pytest
import trio
from hypothesis import given, strategies

from stores import errors
from stores.errors import NotFound, StoreError, Unavailable
from zarrmount.errors import deadline, errno_of, is_expected, os_error

FAMILY = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StoreError)]
EXPECTED = {
    "AlreadyExists": errno.EEXIST,
    "BadLocation": errno.EINVAL,
    "Corrupt": errno.EIO,
    "Denied": errno.EACCES,
    "InvalidKey": errno.EINVAL,
    "NoSpace": errno.ENOSPC,
    "NotFound": errno.ENOENT,
    "Precondition": errno.ESTALE,
    "ReadOnly": errno.EROFS,
    "StoreError": errno.EIO,
    "Unavailable": errno.EIO,
    "Unsupported": errno.ENOTSUP,
}


@pytest.mark.parametrize("kind", FAMILY)
def test_every_store_error_has_its_errno(kind: type[StoreError]) -> None:
    assert errno_of(kind("what", key="k")) == EXPECTED[kind.__name__]


@pytest.mark.parametrize("kind", FAMILY)
def test_a_special_case_of_an_error_has_the_errno_of_the_error(kind: type[StoreError]) -> None:
    class Special(kind):  # type: ignore[misc, valid-type]
        pass

    assert errno_of(Special("what")) == EXPECTED[kind.__name__]


@given(strategies.sampled_from(FAMILY), strategies.none() | strategies.integers(0, 200))
def test_what_the_system_said_is_handed_on(kind: type[StoreError], number: int | None) -> None:
    assert errno_of(kind("what", os_errno=number)) == (number or EXPECTED[kind.__name__])


@given(
    strategies.one_of(
        strategies.builds(OSError, strategies.integers(1, 200), strategies.text()),
        strategies.builds(OSError),
        strategies.builds(OSError, strategies.text()),
        strategies.builds(KeyError, strategies.text()),
        strategies.builds(TimeoutError),
        strategies.builds(lambda: ExceptionGroup("several", [NotFound("a")])),
    )
)
def test_it_is_total(error: Exception) -> None:
    number = errno_of(error)
    assert number == (error.errno if isinstance(error, OSError) and error.errno else errno.EIO)


def test_unreachable_is_never_enoent() -> None:
    assert errno_of(Unavailable("no answer")) != errno.ENOENT


def test_failures_are_no_everyday_answers() -> None:
    assert not any(map(is_expected, (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT)))
    assert all(map(is_expected, (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENODATA)))
    assert os_error(errno.ENOENT).errno == errno.ENOENT


async def test_a_deadline_that_passes_is_unavailable() -> None:
    message = r"'k': the store did not answer within 0.01 s"
    with pytest.raises(Unavailable, match=message), deadline(0.01, "k"):
        await trio.sleep_forever()


async def test_a_deadline_leaves_other_errors_and_cancellation_alone() -> None:
    with pytest.raises(NotFound), deadline(10, "k"):
        raise NotFound("no")
    with trio.move_on_after(0.01) as scope, deadline(10, "k"):
        await trio.sleep_forever()
    assert scope.cancelled_caught
