"""The parameters PostgreSQL 14 to 18 know, so that a typing error is found before a node is touched.

A server refuses to start over one unknown name, and Patroni hands the names of the definition to every member at once.
Rules: a name with a dot belongs to an extension and is always accepted; values are checked only as far as their type
goes, since ranges and the words of an enumeration belong to the server; which parameters are somebody else's to set
is here too, with the place where to set them instead.

Source: `postgres --describe-config` of 14.24, 15.20, 16.15, 17.11 and 18, and the names it hides although a
configuration file may hold them (PostgreSQL documentation, "Developer Options").
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

SUPPORTED = (14, 15, 16, 17, 18)
"""The majors that pgha installs, oldest first."""

END_OF_LIFE = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""The day of the last minor release. Source: https://www.postgresql.org/support/versioning/"""

Kind = Literal["bool", "int", "real", "enum", "string"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter and the majors that know it, both ends included."""

    name: str
    kind: Kind
    first: int
    last: int

    def known_to(self, major: int) -> bool:
        return self.first <= major <= self.last


# A name alone is known to all of 14 to 18; `>=` and `<=` name the first and the last major otherwise.
_BOOLEANS = """
allow_alter_system>=17 allow_in_place_tablespaces allow_system_table_mods array_nulls autovacuum bonjour
check_function_bodies data_sync_retry db_user_namespace<=16 debug_pretty_print debug_print_parse debug_print_plan
debug_print_rewritten default_transaction_deferrable default_transaction_read_only enable_async_append
enable_bitmapscan enable_distinct_reordering>=18 enable_gathermerge enable_group_by_reordering>=17 enable_hashagg
enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize
enable_mergejoin enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning
enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate>=16
enable_self_join_elimination>=18 enable_seqscan enable_sort enable_tidscan escape_string_warning event_triggers>=17
exit_on_error fsync full_page_writes geqo gss_accept_delegation>=16 hot_standby hot_standby_feedback
ignore_checksum_failure ignore_invalid_pages ignore_system_indexes jit jit_debugging_support jit_dump_bitcode
jit_expressions jit_profiling_support jit_tuple_deforming krb_caseins_users lo_compat_privileges log_checkpoints
log_disconnections log_duration log_executor_stats log_hostname log_lock_failures>=18 log_lock_waits log_parser_stats
log_planner_stats log_recovery_conflict_waits log_replication_commands log_statement_stats log_truncate_on_rotation
logging_collector md5_password_warnings>=18 parallel_leader_participation quote_all_identifiers
recovery_target_inclusive remove_temp_files_after_crash restart_after_crash row_security send_abort_for_crash>=16
send_abort_for_kill>=16 ssl ssl_passphrase_command_supports_reload ssl_prefer_server_ciphers
standard_conforming_strings summarize_wal>=17 sync_replication_slots>=17 synchronize_seqscans syslog_sequence_numbers
syslog_split_messages trace_connection_negotiation>=17 trace_notify trace_sort track_activities track_commit_timestamp
track_cost_delay_timing>=18 track_counts track_io_timing track_wal_io_timing transform_null_equals
update_process_title vacuum_truncate>=18 wal_init_zero wal_log_hints wal_receiver_create_temp_slot wal_recycle
zero_damaged_pages
"""

_INTEGERS = """
archive_timeout authentication_timeout autovacuum_analyze_threshold autovacuum_freeze_max_age autovacuum_max_workers
autovacuum_multixact_freeze_max_age autovacuum_naptime autovacuum_vacuum_cost_limit autovacuum_vacuum_insert_threshold
autovacuum_vacuum_max_threshold>=18 autovacuum_vacuum_threshold autovacuum_work_mem autovacuum_worker_slots>=18
backend_flush_after bgwriter_delay bgwriter_flush_after bgwriter_lru_maxpages checkpoint_flush_after
checkpoint_timeout checkpoint_warning client_connection_check_interval commit_delay commit_siblings
commit_timestamp_buffers>=17 deadlock_timeout debug_discard_caches default_statistics_target effective_cache_size
effective_io_concurrency extra_float_digits from_collapse_limit geqo_effort geqo_generations geqo_pool_size
geqo_threshold gin_fuzzy_search_limit gin_pending_list_limit huge_page_size idle_in_transaction_session_timeout
idle_replication_slot_timeout>=18 idle_session_timeout io_combine_limit>=17 io_max_combine_limit>=18
io_max_concurrency>=18 io_workers>=18 join_collapse_limit lock_timeout log_autovacuum_min_duration log_file_mode
log_min_duration_sample log_min_duration_statement log_parameter_max_length log_parameter_max_length_on_error
log_rotation_age log_rotation_size log_startup_progress_interval>=15 log_temp_files logical_decoding_work_mem
maintenance_io_concurrency maintenance_work_mem max_active_replication_origins>=18 max_connections
max_files_per_process max_locks_per_transaction max_logical_replication_workers max_notify_queue_pages>=17
max_parallel_apply_workers_per_subscription>=16 max_parallel_maintenance_workers max_parallel_workers
max_parallel_workers_per_gather max_pred_locks_per_page max_pred_locks_per_relation max_pred_locks_per_transaction
max_prepared_transactions max_replication_slots max_slot_wal_keep_size max_stack_depth max_standby_archive_delay
max_standby_streaming_delay max_sync_workers_per_subscription max_wal_senders max_wal_size max_worker_processes
min_dynamic_shared_memory min_parallel_index_scan_size min_parallel_table_scan_size min_wal_size
multixact_member_buffers>=17 multixact_offset_buffers>=17 notify_buffers>=17 old_snapshot_threshold<=16 port
post_auth_delay pre_auth_delay recovery_min_apply_delay reserved_connections>=16 scram_iterations>=16
serializable_buffers>=17 shared_buffers statement_timeout subtransaction_buffers>=17 superuser_reserved_connections
tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout temp_buffers temp_file_limit
track_activity_query_size transaction_buffers>=17 transaction_timeout>=17 unix_socket_permissions
vacuum_buffer_usage_limit>=16 vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss
vacuum_defer_cleanup_age<=15 vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age
vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age wal_buffers
wal_decode_buffer_size>=15 wal_keep_size wal_receiver_status_interval wal_receiver_timeout wal_retrieve_retry_interval
wal_sender_timeout wal_skip_threshold wal_summary_keep_time>=17 wal_writer_delay wal_writer_flush_after work_mem
"""

_REALS = """
autovacuum_analyze_scale_factor autovacuum_vacuum_cost_delay autovacuum_vacuum_insert_scale_factor
autovacuum_vacuum_scale_factor bgwriter_lru_multiplier checkpoint_completion_target cpu_index_tuple_cost
cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction geqo_seed geqo_selection_bias hash_mem_multiplier
jit_above_cost jit_inline_above_cost jit_optimize_above_cost log_statement_sample_rate log_transaction_sample_rate
parallel_setup_cost parallel_tuple_cost random_page_cost recursive_worktable_factor>=15 seq_page_cost
vacuum_cost_delay vacuum_max_eager_freeze_failure_rate>=18
"""

_ENUMS = """
IntervalStyle archive_mode backslash_quote bytea_output client_min_messages compute_query_id constraint_exclusion
debug_logical_replication_streaming>=16 debug_parallel_query>=16 default_toast_compression
default_transaction_isolation dynamic_shared_memory_type file_copy_method>=18 file_extend_method>=16
force_parallel_mode<=15 huge_pages icu_validation_level>=16 io_method>=18 log_error_verbosity log_min_error_statement
log_min_messages log_statement password_encryption plan_cache_mode recovery_init_sync_method recovery_prefetch>=15
recovery_target_action session_replication_role shared_memory_type ssl_max_protocol_version ssl_min_protocol_version
stats_fetch_consistency>=15 synchronous_commit syslog_facility trace_recovery_messages<=14 track_functions wal_level
wal_sync_method xmlbinary xmloption
"""

_STRINGS = """
DateStyle TimeZone application_name archive_cleanup_command archive_command archive_library>=15 backtrace_functions
bonjour_name client_encoding cluster_name createrole_self_grant>=16 data_directory debug_io_direct>=16
default_table_access_method default_tablespace default_text_search_config dynamic_library_path event_source
extension_control_path>=18 extension_destdir<=17 external_pid_file hba_file ident_file jit_provider krb_server_keyfile
lc_messages lc_monetary lc_numeric lc_time listen_addresses local_preload_libraries log_connections log_destination
log_directory log_filename log_line_prefix log_timezone oauth_validator_libraries>=18 output_plugin_libraries
primary_conninfo primary_slot_name promote_trigger_file<=15 recovery_end_command recovery_target recovery_target_lsn
recovery_target_name recovery_target_time recovery_target_timeline recovery_target_xid restore_command
restrict_nonsystem_relation_kind search_path session_preload_libraries shared_preload_libraries ssl_ca_file
ssl_cert_file ssl_ciphers ssl_crl_dir ssl_crl_file ssl_dh_params_file ssl_ecdh_curve ssl_groups>=18 ssl_key_file
ssl_passphrase_command ssl_tls13_ciphers>=18 stats_temp_directory<=14 synchronized_standby_slots>=17
synchronous_standby_names syslog_ident temp_tablespaces timezone_abbreviations unix_socket_directories
unix_socket_group wal_compression wal_consistency_checking
"""


def _table(kind: Kind, text: str) -> dict[str, Parameter]:
    found = {}
    for word in text.split():
        match = re.fullmatch(r"(\w+)(?:>=(\d+))?(?:<=(\d+))?", word)
        assert match, word
        name, first, last = match.groups()
        found[name] = Parameter(name, kind, int(first or SUPPORTED[0]), int(last or SUPPORTED[-1]))
    return found


PARAMETERS: dict[str, Parameter] = {
    **_table("bool", _BOOLEANS),
    **_table("int", _INTEGERS),
    **_table("real", _REALS),
    **_table("enum", _ENUMS),
    **_table("string", _STRINGS),
}

_PATRONI = "Patroni sets it on every member"
OWNED: dict[str, str] = {
    "listen_addresses": "pgha sets it from the node's address",
    "port": "set postgresql.port",
    "password_encryption": "set postgresql.password_encryption",
    "synchronous_standby_names": "set rpo, or patroni.synchronous_mode",
    "cluster_name": "it is the name of the cluster: set cluster",
    "hot_standby": _PATRONI,
    "primary_conninfo": _PATRONI,
    "primary_slot_name": _PATRONI,
    "data_directory": "set data_dir of the node",
    "hba_file": "set postgresql.pg_hba",
    "ident_file": _PATRONI,
    "config_file": _PATRONI,
    "external_pid_file": _PATRONI,
    "unix_socket_directories": "pgha keeps it where its own probes look",
    "promote_trigger_file": "Patroni promotes; use a switchover",
} | {name: _PATRONI for name in PARAMETERS if name.startswith("recovery_target")}
"""Parameters that the definition may not set, with where to set them or why nobody may."""

ALIKE_EVERYWHERE = frozenset(
    {
        "max_connections",
        "max_locks_per_transaction",
        "max_worker_processes",
        "max_prepared_transactions",
        "wal_level",
        "track_commit_timestamp",
        "max_wal_senders",
        "max_replication_slots",
        "wal_keep_size",
        "wal_log_hints",
    }
)
"""Parameters that Patroni takes from the cluster's configuration only, never from one node's.

Source: Patroni documentation, "Patroni configuration", important rules."""


def owner(name: str, backup: bool) -> str:
    """Where to set a parameter that is not free, or why it is not; empty when it is free.

    `backup` says whether the definition has a backup section, which takes the archive parameters.
    """
    if name in OWNED:
        return OWNED[name]
    if name == "ssl" or name.startswith("ssl_"):
        return "pgha issues the certificates and turns TLS on: set tls"
    if backup and name in ("archive_mode", "archive_command", "archive_library", "restore_command"):
        return "it follows from backup"
    return ""


def unknown(name: str, major: int | None) -> tuple[str, str] | None:
    """Why no PostgreSQL of this major knows the name, and a proposal; None when it is known.

    Without a major it is enough that one supported major knows it.
    """
    if "." in name:
        return None
    server = f"PostgreSQL {major}" if major else "PostgreSQL"
    parameter = PARAMETERS.get(name.lower())
    if parameter is None:
        names = [p.name for p in PARAMETERS.values() if major is None or p.known_to(major)]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else "SHOW ALL on a server of that version lists them"
        return f"is not a {server} parameter", hint
    if major is None or parameter.known_to(major):
        return None
    when = f"it came with {parameter.first}" if major < parameter.first else f"{parameter.last} was the last to have it"
    return f"is not a {server} parameter: {when}", "remove it, or set another postgresql.version"


_BOOLEAN_WORD = re.compile(r"on|off|true|false|yes|no|t|f|y|n|0|1", re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*(B|kB|MB|GB|TB|us|ms|s|min|h|d)?\s*")
_WHOLE = re.compile(r"\s*[-+]?(0x[0-9a-fA-F]+)\s*")


def wrong_value(name: str, value: bool | int | float | str) -> str | None:
    """What the parameter expects when the value cannot be of its type; None when it may be right."""
    parameter = PARAMETERS.get(name.lower())
    if parameter is None:
        return None
    text = str(value)
    if parameter.kind == "bool":
        return None if isinstance(value, bool) or _BOOLEAN_WORD.fullmatch(text) else "expected on or off"
    if parameter.kind not in ("int", "real"):
        return None
    if isinstance(value, bool) or not (_NUMBER.fullmatch(text) or _WHOLE.fullmatch(text)):
        return "expected a number, with a unit such as 128MB or 10s where the parameter has one"
    return None
