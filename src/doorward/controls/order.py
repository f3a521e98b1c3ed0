"""The controls of the request path, in order, with the reason for each place; and the postures beside them."""

from __future__ import annotations

from doorward.controls.ask_consent import AskConsent
from doorward.controls.ask_policy import AskPolicy
from doorward.controls.bind_session import BindSession
from doorward.controls.bind_token import BindToken
from doorward.controls.check_head import CheckHead
from doorward.controls.check_origin import CheckOrigin
from doorward.controls.check_shape import CheckShape
from doorward.controls.check_token import CheckToken
from doorward.controls.control import Control, Posture
from doorward.controls.gate_server_requests import GateServerRequests
from doorward.controls.keep_cage import KeepCage
from doorward.controls.keep_ledger import KeepLedger
from doorward.controls.keep_secrets import KeepSecrets
from doorward.controls.keep_tls import KeepTls
from doorward.controls.limit_rate import LimitRate
from doorward.controls.match_pin import MatchPin
from doorward.controls.present_credential import PresentCredential
from doorward.controls.scope_cache import ScopeCache
from doorward.controls.seal_state import SealState

ORDER: tuple[type[Control], ...] = (
    CheckOrigin,  # first: a browser of another site learns nothing, not even that a token is missing
    CheckToken,  # before anything that reads or costs: who is asking
    BindToken,  # right behind it: a token that is bound says nothing until what it is bound to is shown
    CheckHead,  # method, media types and sizes; then, with the body parsed, the header's copies of it
    BindSession,  # whose session it is, before anything is done in it
    CheckShape,  # only well-formed messages of the era are counted and judged further
    LimitRate,  # before policy, so that a flood of questions costs nothing but counting
    AskPolicy,  # closed by default: what no rule allows does not exist for this caller
    MatchPin,  # after policy: whoever may not use a tool does not learn whether it is approved
    SealState,  # after policy: what comes back is judged like any request, and only then used up
    PresentCredential,  # last before the server: only a call that is allowed may cost a token
    GateServerRequests,  # what servers ask of clients passes here, after the call itself was allowed
    ScopeCache,  # last: what goes back to the client, filtered for this caller
)

POSTURES: tuple[type[Posture], ...] = (
    KeepLedger,  # nothing is served that is not on record
    AskConsent,  # whoever gets tokens for a user was agreed to by that user
    KeepSecrets,  # what Doorward holds for others, it keeps to itself
    KeepCage,  # what Doorward starts, it starts in a sandbox
    KeepTls,  # what leaves this machine is encrypted
)
