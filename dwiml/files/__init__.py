"""Open, read, check and write files, with the same rules in every command and class."""

from dwiml.files.json_files import parse_json, read_json
from dwiml.files.names import check_name
from dwiml.files.opening import check_file, explained, identity_of, open_regular
from dwiml.files.outputs import check_output_folder, check_outputs, check_target, refuse_inputs, refuse_irregular
from dwiml.files.reasons import reason_of
from dwiml.files.sizes import check_memory
from dwiml.files.writing import atomic_write, remove_unfinished, sync_folder, write_json

__all__ = [
    "atomic_write",
    "check_file",
    "check_memory",
    "check_name",
    "check_output_folder",
    "check_outputs",
    "check_target",
    "explained",
    "identity_of",
    "open_regular",
    "parse_json",
    "read_json",
    "reason_of",
    "refuse_inputs",
    "refuse_irregular",
    "remove_unfinished",
    "sync_folder",
    "write_json",
]
