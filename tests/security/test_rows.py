"""The security checklist, row by row: which tests try the attack. A test that goes away, or is renamed, is missed here.

The rows are classes of faults that other consoles and clouds had, in the words of the checklist.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROWS = {
    "12 stored XSS": (
        "tests/security/test_every_string.py::test_on_every_page_it_is_text",
        "tests/portal/test_templates.py::",
        "tests/portal/api/test_manners.py::test_names_come_back_as_data_that_no_browser_reads_as_a_page",
    ),
    "13 XSS through the console": (
        "tests/security/test_every_string.py::test_in_the_console_log_as_well",
        "tests/portal/console/test_serial_log.py::test_nothing_that_is_obeyed_is_left_of_any_bytes",
        "tests/portal/cli/test_screened.py::test_whatever_is_printed_in_whatever_pieces",
    ),
    "14 rights on every action": (
        "tests/portal/test_every_url.py::test_a_stranger_cannot_tell_that_it_exists",
        "tests/portal/api/test_every_operation.py::test_a_stranger_cannot_tell_that_it_exists",
        "tests/portal/api/test_every_operation.py::test_a_token_for_one_project_reaches_nothing_else",
    ),
    "16 raising one's rights": (
        "tests/security/test_rights.py::test_nobody_becomes_more_by_fields_that_nobody_asked_for",
        "tests/security/test_rights.py::test_an_owner_is_no_operator",
    ),
    "17 backing and data files": (
        "tests/workers/imaging/test_inspector.py::test_an_image_that_points_at_another_file_is_refused",
        "tests/workers/imaging/test_inspector.py::test_a_data_file_hidden_from_the_feature_bits_is_refused",
    ),
    "18 descriptor files": (
        "tests/workers/imaging/test_inspector.py::test_a_text_that_describes_a_vmware_disk_is_refused",
    ),
    "19 probing again later": (
        "tests/security/test_house.py::test_qemu_img_never_probes",
        "tests/workers/hypervisor/test_domain_xml.py::test_every_disk_names_its_format_and_ends_its_chain",
    ),
    "20 bombs": (
        "tests/workers/imaging/test_qemu_img.py::test_a_limit_ends_the_tool",
        "tests/workers/imaging/test_inspector.py::test_a_disk_above_the_cap_is_refused_before_it_is_read",
    ),
    "21 forged requests by import": (
        "tests/workers/test_fetch.py::test_no_image_comes_from_the_private_network",
        "tests/portal/lib/test_fetcher.py::test_no_spelling_of_any_private_address_gets_through",
        "tests/portal/lib/test_fetcher.py::test_a_name_that_means_something_else_a_moment_later_leads_nowhere_else",
    ),
    "22 forged requests by webhook": (
        "tests/portal/lib/test_fetcher.py::test_what_is_posted_follows_no_redirect",
        "tests/portal/lib/test_fetcher.py::test_the_one_for_use_lets_no_private_network_in",
    ),
    "23 paths and links": (
        "tests/workers/hypervisor/test_storage.py::",
        "tests/workers/imaging/test_inspector.py::test_links_and_pipes_are_not_followed",
        "tests/portal/images/test_upload.py::test_the_name_of_a_file_is_never_a_path",
    ),
    "24 malicious archives": (
        "tests/portal/keeping/test_hostile.py::test_no_flipped_or_missing_bytes_make_it_stumble",
        "tests/security/test_house.py::test_no_data_becomes_code",
    ),
    "25 XML": (
        "tests/workers/hypervisor/test_domain_xml.py::test_any_title_is_kept_or_refused",
        "tests/workers/hypervisor/test_domain_xml.py::test_only_allowed_devices_appear",
        "tests/security/test_house.py::test_no_xml_is_glued",
    ),
    "26 commands": ("tests/security/test_house.py::test_no_shell_runs_anything",),
    "27 DHCP and DNS": (
        "tests/security/test_rights.py::test_a_name_is_one_word_of_a_host",
        "tests/workers/hypervisor/test_cloud_init.py::test_a_host_name_that_is_none_is_refused",
    ),
    "28 user-data": (
        "tests/security/test_secrets.py::test_user_data_is_for_those_who_may_work_on_the_machine",
        "tests/workers/hypervisor/test_cloud_init.py::test_no_key_adds_anything_to_the_seed",
    ),
    "29 metadata service": ("tests/security/test_house.py::test_guests_ask_no_metadata_service",),
    "37 secrets in jobs": (
        "tests/security/test_secrets.py::test_no_job_event_or_audit_row_holds_a_secret",
        "tests/security/test_secrets.py::test_a_message_to_a_worker_is_a_name_and_an_id",
        "tests/workers/test_log.py::test_no_secret_is_in_any_line",
    ),
    "38 stale attachments": (
        "tests/workers/test_devices.py::test_a_guest_that_clings_to_its_disk_keeps_it_and_nobody_else_gets_it",
        "tests/workers/test_devices.py::test_a_guest_that_lets_go_after_it_was_given_up_on_is_followed",
        "tests/integration/hypervisor/test_devices.py::"
        "test_a_guest_that_is_not_up_keeps_its_disk_and_so_does_its_definition",
    ),
}
"""`::` alone stands for the whole file."""


@pytest.mark.parametrize("row", ROWS)
def test_the_attack_is_tried(row: str) -> None:
    for name in ROWS[row]:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), path
        found = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not function or function in found, name
