"""The names of options: obstore's own, and those that users of s3fs, gcsfs and adlfs know.

obstore tells its names to type checkers only, so they stand here again; a name that is missing here
is refused before obstore sees it.
"""

from __future__ import annotations

__all__ = ["ALIASES", "BACKOFF", "CLIENT", "COMMON", "IGNORED", "KINDS", "NAMES", "OWN", "PREFIXES", "RETRY"]

_S3 = frozenset(
    [
        "access_key_id",
        "secret_access_key",
        "session_token",
        "region",
        "endpoint",
        "bucket",
        "skip_signature",
        "request_payer",
        "virtual_hosted_style_request",
        "default_region",
        "disable_tagging",
        "disable_bulk_delete",
        "checksum_algorithm",
        "conditional_put",
        "copy_if_not_exists",
        "container_credentials_relative_uri",
        "container_credentials_full_uri",
        "container_authorization_token_file",
        "imdsv1_fallback",
        "metadata_endpoint",
        "role_arn",
        "role_session_name",
        "s3_express",
        "server_side_encryption",
        "sse_bucket_key_enabled",
        "sse_customer_key_base64",
        "sse_kms_key_id",
        "sts_endpoint",
        "unsigned_payload",
        "web_identity_token_file",
    ]
)
_AZURE = frozenset(
    [
        "account_name",
        "account_key",
        "client_id",
        "client_secret",
        "credential_type",
        "tenant_id",
        "authority_host",
        "sas_key",
        "token",
        "use_emulator",
        "use_fabric_endpoint",
        "encryption_key",
        "endpoint",
        "msi_endpoint",
        "object_id",
        "msi_resource_id",
        "federated_token_file",
        "use_azure_cli",
        "skip_signature",
        "disable_tagging",
        "fabric_token_service_url",
        "fabric_workload_host",
        "fabric_session_token",
        "fabric_cluster_identifier",
    ]
)
_GCS = frozenset(
    [
        "service_account",
        "service_account_key",
        "base_url",
        "bearer_token",
        "application_credentials",
        "skip_signature",
    ]
)
CLIENT = frozenset(
    [
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "default_headers",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "root_certificate",
        "randomize_addresses",
        "read_timeout",
        "timeout",
        "user_agent",
    ]
)
RETRY = frozenset(("backoff", "max_retries", "retry_timeout"))
BACKOFF = frozenset(("init_backoff", "max_backoff", "base"))
COMMON = frozenset(
    ("client_options", "client_kwargs", "config_kwargs", "retry_config", "max_connections", "verify")
)

IGNORED = frozenset(
    [
        "asynchronous",
        "loop",
        "skip_instance_cache",
        "use_listings_cache",
        "listings_expiry_time",
        "default_block_size",
        "default_fill_cache",
        "default_cache_type",
        "max_concurrency",
        "cache_regions",
        "block_size",
    ]
)
"""Options of fsspec that tune what is done otherwise here; they change nothing of what is read."""

ALIASES: dict[str, dict[str, str]] = {
    "s3": {
        "anon": "skip_signature",
        "key": "access_key_id",
        "username": "access_key_id",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "token": "session_token",
        "endpoint_url": "endpoint",
        "endpoint_url_s3": "endpoint",
        "region_name": "region",
        "requester_pays": "request_payer",
    },
    "azure": {
        "anon": "skip_signature",
        "sas_token": "sas_key",
        "endpoint_url": "endpoint",
        "key": "account_key",
        "access_key": "account_key",
        "account": "account_name",
    },
    "gcs": {"anon": "skip_signature", "endpoint_url": "base_url", "endpoint": "base_url"},
    "http": {},
}
OWN: dict[str, frozenset[str]] = {
    "s3": frozenset(("profile",)),
    "azure": frozenset(("connection_string", "account_host")),
    "gcs": frozenset(("token", "project", "requester_pays")),
    "http": frozenset(("headers",)),
}
NAMES = {"s3": _S3, "azure": _AZURE, "gcs": _GCS, "http": frozenset[str]()}
PREFIXES = {"s3": "aws_", "azure": "azure_storage_", "gcs": "google_", "http": ""}
KINDS = dict.fromkeys(("s3", "s3a"), "s3") | dict.fromkeys(("gs", "gcs"), "gcs")
KINDS |= dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure") | dict.fromkeys(("http", "https"), "http")
