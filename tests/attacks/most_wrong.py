"""The twenty-five requirements that gateways get wrong most often: and which tests hold each.

``tests`` are names in test_most_wrong.py, or FILE::NAME elsewhere in tests/. tests/laws/test_most_wrong.py holds the table.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One of the twenty-five."""

    number: int
    wrong: str  # what goes wrong, in our words
    tests: tuple[str, ...]


MOST_WRONG = (
    Row(1, "A token for somebody else is taken.", (
        "test_01_a_token_for_another_audience_opens_nothing",
        "attacks/test_hostile_tokens.py::test_a_hostile_token_reaches_nothing_and_leaves_one_record",
    )),
    Row(2, "The caller's token goes on to servers.", ("test_02_the_callers_token_stays_here",)),
    Row(3, "The protected resource is named after the request.", ("test_03_what_is_protected_is_named_by_the_settings_only",)),
    Row(4, "The resource's metadata is not where clients look.", ("test_04_the_metadata_lies_where_clients_look",)),
    Row(5, "Refusals do not say in HTTP what is missing.", ("test_05_a_refusal_says_in_http_what_is_missing",)),
    Row(6, "Scopes are asked for one by one.", ("test_06_one_challenge_names_all_that_is_needed",)),
    Row(7, "Consent is not bound to the browser that comes back.", (
        "oauth/test_broker.py::test_t09_who_agreed_in_one_browser_gets_no_code_through_another",
        "stack/test_connect.py::test_only_the_user_and_browser_that_began_can_finish",
    )),
    Row(8, "Consent counts for every client of a user; state is kept before consent.", (
        "oauth/test_consent.py::test_t08_consent_is_for_one_user_one_client_one_redirect_and_one_resource",
        "stack/test_connect.py::test_nothing_is_kept_or_asked_before_the_user_agreed",
    )),
    Row(9, "The resource is handed to an identity provider, or tokens have no audience.", (
        "test_09_a_token_is_issued_for_exactly_one_endpoint",
        "oauth/test_broker.py::test_r9_nothing_of_the_clients_request_goes_to_the_provider",
    )),
    Row(10, "The issuer is spelled in several ways, or not sent.", (
        "test_10_the_issuer_is_one_string_everywhere",
        "unit/identity/test_oauth_client.py::test_a_response_of_another_issuer_or_without_one_is_not_acted_on",
        "stack/test_connect.py::test_an_answer_of_another_issuer_sends_no_code_and_shows_no_word_of_it",
    )),
    Row(11, "URLs that others name are fetched without a guard.", (
        "test_11_no_url_that_others_name_is_fetched",
        "laws/test_outgoing.py::test_a_file_opens_no_connection_that_is_not_named_here",
        "stack/test_connect.py::test_inner_networks_are_out_of_reach_for_what_a_server_names",
    )),
    Row(12, "PKCE is used without knowing that the server checks it.", (
        "unit/identity/test_oauth_client.py::test_a_server_without_s256_is_refused_before_anything_is_sent",
    )),
    Row(13, "Credentials are used on after the authorization server has changed.", (
        "stack/test_connect.py::test_a_token_of_one_authorization_server_is_not_presented_after_a_move_to_another",
    )),
    Row(14, "A step up loses earlier scopes or goes round for ever.", (
        "stack/test_connect.py::test_more_rights_are_asked_for_with_those_there_are_and_not_for_ever",
    )),
    Row(15, "A session is anybody's, or ends with each new token.", (
        "test_15_a_session_is_its_principals_and_outlives_their_token",
        "attacks/test_eras.py::test_t_55_a_question_of_the_2026_era_takes_its_answer_from_the_one_asked_only",
    )),
    Row(16, "The origin is not checked, or too late.", ("test_16_a_foreign_origin_is_refused_before_anything_else",)),
    Row(17, "Policy believes header fields.", ("test_17_policy_is_asked_about_what_the_server_will_read",)),
    Row(18, "Mirrored header fields are stale or lost.", ("test_18_mirrored_fields_are_written_for_what_is_sent",)),
    Row(19, "The meta object is rebuilt or dropped.", ("test_19_meta_arrives_whole",)),
    Row(20, "More is declared to servers than the client can do.", ("test_20_a_server_hears_of_no_more_than_its_client_can_do",)),
    Row(21, "Filtered lists are shared.", ("test_21_a_list_for_one_caller_is_never_shared",)),
    Row(22, "A lost connection means the wrong thing.", ("test_22_leaving_cancels_in_the_newer_era_and_only_there",)),
    Row(23, "Events are held back, or silent streams die.", (
        "test_23_events_come_as_they_are_said",
        "unit/gateway/test_streams.py::test_silence_is_broken_by_comments_only",
    )),
    Row(24, "Statuses are wrong.", ("test_24_every_end_has_its_own_status",)),
    Row(25, "Callers choose what runs, or share a process.", ("test_25_no_caller_chooses_what_runs_and_none_shares_a_process",)),
)  # fmt: skip
