"""The `openai` engine: any endpoint that speaks the Responses API or Chat Completions.

    engine (tries, waits) -> client (HTTP) -> answer (stream, body or page?) -> frames (SSE)
        -> responses | chat (events into items) -> engine events

Endpoints are many and odd, and none is under our control. What comes from one is made safe
where it comes in: `values` reads JSON of any shape, a field that cannot be read is passed
over, and what is then missing is an error of the turn, in the endpoint's own `words`.
"""
