"""Account, models, configuration. There is no login, and none is needed."""

from core_server.context import Context
from core_server.engines.base import Model
from core_server.errors import invalid_request
from core_server.protocol.account import (
    AccountReadParams,
    AccountResult,
    ConfigReadParams,
    ConfigReadResult,
    EffortOption,
    LoginCancelParams,
    LoginCancelResult,
    LoginParams,
    ModelListParams,
    ModelListResult,
    RequirementsResult,
    WireConfig,
    WireModel,
)
from core_server.protocol.wire import Nothing


def read(_: Context, __: AccountReadParams) -> AccountResult:
    """`account/read`."""
    return AccountResult()


def login(_: Context, params: LoginParams) -> Nothing:
    """`account/login/start`: the engine's key comes from the environment."""
    raise invalid_request(
        f"login of type `{params.type[:64]}` is not available: this server needs none;"
        " it takes the model's key from its environment (OPENAI_API_KEY)"
    )


def cancel_login(_: Context, __: LoginCancelParams) -> LoginCancelResult:
    """`account/login/cancel`."""
    return LoginCancelResult()


def logout(_: Context, __: None) -> Nothing:
    """`account/logout`: nobody is logged in."""
    return Nothing()


def rate_limits(_: Context, __: None) -> Nothing:
    """`account/rateLimits/read`: refused in the reference's words for no account."""
    raise invalid_request("codex account authentication required to read rate limits")


def models(context: Context, params: ModelListParams) -> ModelListResult:
    """`model/list`: the cursor is the number of the first model of the page."""
    known = context.engine.models
    cursor = params.cursor or "0"
    if not cursor.isdecimal() or len(cursor) > 9 or int(cursor) > len(known):
        raise invalid_request(f"invalid cursor: {cursor[:64]}")
    start = int(cursor)
    end = len(known) if params.limit is None else start + max(1, params.limit)
    page = tuple(
        _wire(model, is_default=place == 0)
        for place, model in enumerate(known)
        if start <= place < end
    )
    return ModelListResult(page, str(end) if end < len(known) else None)


def _wire(model: Model, *, is_default: bool) -> WireModel:
    return WireModel(
        model.id,
        model.id,
        model.display_name,
        model.description,
        tuple(EffortOption(effort, f"{effort} reasoning effort") for effort in model.efforts),
        model.default_effort,
        model.modalities,
        is_default,
    )


def config(context: Context, _: ConfigReadParams) -> ConfigReadResult:
    """`config/read`: what the options said."""
    known = context.config
    return ConfigReadResult(
        WireConfig(
            known.model or context.engine.models[0].id,
            context.engine.provider,
            known.approval_policy,
            known.sandbox,
        )
    )


def requirements(_: Context, __: None) -> RequirementsResult:
    """`configRequirements/read`."""
    return RequirementsResult()
