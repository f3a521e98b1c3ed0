"""The controls of the request path, in order, with the reason for each place; and the postures beside them."""

from __future__ import annotations

from doorward.controls.ask_policy import AskPolicy
from doorward.controls.check_head import CheckHead
from doorward.controls.check_origin import CheckOrigin
from doorward.controls.check_shape import CheckShape
from doorward.controls.check_token import CheckToken
from doorward.controls.control import Control, Posture
from doorward.controls.gate_server_requests import GateServerRequests
from doorward.controls.keep_cage import KeepCage
from doorward.controls.keep_ledger import KeepLedger
from doorward.controls.keep_secrets import KeepSecrets
from doorward.controls.limit_rate import LimitRate
from doorward.controls.present_credential import PresentCredential

ORDER: tuple[type[Control], ...] = (
    CheckOrigin,  # first: a browser of another site learns nothing, not even that a token is missing
    CheckToken,  # before anything that reads or costs: who is asking
    CheckHead,  # method, media types and sizes; then, with the body parsed, the header's copies of it
    CheckShape,  # only well-formed messages of the era are counted and judged further
    LimitRate,  # before policy, so that a flood of questions costs nothing but counting
    AskPolicy,  # closed by default: what no rule allows does not exist for this caller
    PresentCredential,  # last before the server: only a call that is allowed may cost a token
    GateServerRequests,  # what servers ask of clients passes here, after the call itself was allowed
)

POSTURES: tuple[type[Posture], ...] = (
    KeepLedger,  # nothing is served that is not on record
    KeepSecrets,  # what Doorward holds for others, it keeps to itself
    KeepCage,  # what Doorward starts, it starts in a sandbox
)
