"""Account, models and configuration: what clients ask before the first thread."""

from typing import Literal

from core_server.config import ApprovalPolicy, SandboxMode
from core_server.protocol.wire import U32, Nothing, Wire


class AccountReadParams(Wire, frozen=True):
    """`account/read`."""

    refresh_token: bool = False


class AccountResult(Wire, frozen=True):
    """There is no account and none is needed."""

    account: None = None
    user_id: None = None
    requires_openai_auth: bool = False
    workspace_routing: None = None


class LoginParams(Wire, frozen=True):
    """`account/login/start`; no kind is served."""

    type: str


class LoginCancelParams(Wire, frozen=True):
    """`account/login/cancel`."""

    login_id: str


class LoginCancelResult(Wire, frozen=True):
    """No login can be pending."""

    status: Literal["notFound"] = "notFound"


class RateLimits(Wire, frozen=True):
    """No limits are known."""

    limit_id: str = "core-server"
    limit_name: None = None
    normal_model_slug: None = None
    primary: None = None
    secondary: None = None
    credits: None = None
    individual_limit: None = None
    spend_control_reached: None = None
    plan_type: None = None
    rate_limit_reached_type: None = None


class RateLimitsUpdated(Wire, frozen=True):
    """`account/rateLimits/updated`."""

    rate_limits: RateLimits = RateLimits()


class ModelListParams(Wire, frozen=True):
    """`model/list`."""

    cursor: str | None = None
    limit: U32 | None = None
    include_hidden: bool | None = None


class EffortOption(Wire, frozen=True):
    """A reasoning effort that a model offers."""

    reasoning_effort: str
    description: str


class WireModel(Wire, frozen=True):
    """A model."""

    id: str
    model: str
    display_name: str
    description: str
    supported_reasoning_efforts: tuple[EffortOption, ...]
    default_reasoning_effort: str
    input_modalities: tuple[str, ...]
    is_default: bool
    hidden: bool = False
    supports_personality: bool = False
    additional_speed_tiers: tuple[str, ...] = ()
    service_tiers: tuple[str, ...] = ()
    upgrade: None = None
    upgrade_info: None = None
    availability_nux: None = None
    model_specialty: None = None
    default_service_tier: None = None


class ModelListResult(Wire, frozen=True):
    """A page of models."""

    data: tuple[WireModel, ...]
    next_cursor: str | None


class ConfigReadParams(Wire, frozen=True):
    """`config/read`."""

    include_layers: bool = False
    cwd: str | None = None


class WireConfig(Wire, frozen=True, rename=None):
    """The configuration in the words of the reference's file (snake case)."""

    model: str
    model_provider: str
    approval_policy: ApprovalPolicy
    sandbox_mode: SandboxMode


class ConfigReadResult(Wire, frozen=True):
    """The configuration, and where it comes from: options, so no file is named."""

    config: WireConfig
    origins: Nothing = Nothing()
    layers: tuple[str, ...] | None = None


class RequirementsResult(Wire, frozen=True):
    """Nobody restricts the configuration."""

    supports_independent_speed_modes: bool = False
    requirements: None = None
