"""The one interceptor: every call is authorised, counted, timed, and fails with a status that says why."""

from __future__ import annotations

import contextvars
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import structlog
from grpc_status import rpc_status

from trajmon_server.auth import Authenticator, Principal
from trajmon_server.errors import ServiceError
from trajmon_server.rpc.activity import Activity
from trajmon_server.rpc.rules import RULES
from trajmon_server.rpc.status import to_status

__all__ = ["CallObserver", "Gate", "caller"]

log = structlog.get_logger(__name__)
_caller: contextvars.ContextVar[Principal] = contextvars.ContextVar("caller")

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

ANYBODY = Principal(team="", role="read")
"""Who calls a method that needs no token; belongs to no team."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: grpc.StatusCode
    text: str


_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def caller() -> Principal:
    """Who makes the call that is being served."""
    return _caller.get()


class CallObserver(Protocol):
    """Hears of every call that ended."""

    def __call__(self, method: str, code: str, seconds: float) -> None:
        """`method` is one of the served methods, `code` the name of a gRPC status code."""


class Gate(grpc.aio.ServerInterceptor):
    """Authorises by rpc/rules.py, turns ServiceError into rich statuses, reports each call to the observer."""

    def __init__(self, authenticator: Authenticator, observe: CallObserver, activity: Activity) -> None:
        self._authenticator = authenticator
        self._activity = activity
        self._observe = observe

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        authorization = metadata.get("authorization")
        verdict = self._judge(method, authorization if isinstance(authorization, str) else None)
        if handler.response_streaming:
            return self._wrap_streaming(handler, method, verdict)
        return self._wrap_unary(handler, method, verdict)

    def _judge(self, method: str, authorization: str | None) -> Principal | _Refusal:
        rule = RULES.get(method)
        if rule is None:
            return _Refusal(grpc.StatusCode.PERMISSION_DENIED, f"no access rule for {method}")
        if rule == "open":
            return ANYBODY
        principal = self._authenticator.authenticate(authorization)
        if principal is None:
            what = "token is not valid" if authorization else "no token was sent"
            return _Refusal(
                grpc.StatusCode.UNAUTHENTICATED,
                f"{what}; set TRAJMON_TOKEN, or use the TRAJMON_HOME whose `token` file the server reads",
            )
        if not principal.may(rule):
            return _Refusal(grpc.StatusCode.PERMISSION_DENIED, f"this token may not {rule}")
        return principal

    def _wrap_unary(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: str, verdict: Principal | _Refusal
    ) -> grpc.RpcMethodHandler[Any, Any]:
        behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def serve(request: Any, context: Context) -> Any:
            with self._activity.call(), _Timer(self._observe, method, context):
                if isinstance(verdict, _Refusal):
                    await context.abort(verdict.code, verdict.text)
                _caller.set(verdict)
                try:
                    return await behavior(request, context)
                except Exception as error:  # becomes the call's status
                    await _abort(context, method, error)

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(serve, handler.request_deserializer, handler.response_serializer)

    def _wrap_streaming(
        self, handler: grpc.RpcMethodHandler[Any, Any], method: str, verdict: Principal | _Refusal
    ) -> grpc.RpcMethodHandler[Any, Any]:
        behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._activity.call(), _Timer(self._observe, method, context):
                if isinstance(verdict, _Refusal):
                    await context.abort(verdict.code, verdict.text)
                _caller.set(verdict)
                try:
                    async for response in behavior(request, context):
                        yield response
                except Exception as error:  # becomes the call's status
                    await _abort(context, method, error)

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(serve, handler.request_deserializer, handler.response_serializer)


class _Timer:
    def __init__(self, observe: CallObserver, method: str, context: Context) -> None:
        self._observe, self._method, self._context = observe, method, context

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            # The caller left, or its deadline passed: nobody has set a code.
            self._observe(self._method, "CANCELLED", time.perf_counter() - self._start)
            return
        # 0 while nobody has set a code, else a StatusCode; an int where a rich status was sent.
        code: Any = self._context.code()
        number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
        self._observe(self._method, _CODE_NAMES.get(number, "UNKNOWN"), time.perf_counter() - self._start)


async def _abort(context: Context, method: str, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ServiceError):
        await context.abort_with_status(rpc_status.to_status(to_status(error)))
    incident = uuid.uuid4().hex[:12]
    log.error("call failed", method=method, incident=incident, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"internal error, see incident {incident} in the server's log"
    )
