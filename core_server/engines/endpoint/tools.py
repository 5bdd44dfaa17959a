"""The tools as the endpoint sees them: strict function schemas. Pure.

Strict mode wants every property required, so what is optional is nullable; nulls are
taken out of the arguments again by `without_nulls`.
"""

import msgspec

_PATCH_FORMAT = """\
Change files. The patch is text of this form, paths relative to the working directory:
*** Begin Patch
*** Add File: new.txt
+every line of the new file after a plus
*** Update File: old.txt
*** Move to: renamed.txt
@@ def function_that_holds_the_change
 a line of context
-a line to remove
+a line to add
*** Delete File: gone.txt
*** End Patch
Move to and @@ lines are optional. Give three lines of context around each change."""


def _nullable(kind: str, description: str) -> dict[str, object]:
    return {"type": [kind, "null"], "description": description}


def _tool(
    name: str, description: str, properties: dict[str, dict[str, object]]
) -> dict[str, object]:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
    }


TOOLS: tuple[dict[str, object], ...] = (
    _tool(
        "shell",
        "Run a command and return its output. It runs in a sandbox without network.",
        {
            "command": {
                "type": "array",
                "items": {"type": "string"},
                "description": 'Program and arguments, e.g. ["bash", "-lc", "ls | wc -l"].',
            },
            "workdir": _nullable("string", "Where to run it; null: the working directory."),
            "timeout_ms": _nullable("integer", "It is killed after this; null: the default."),
            "escalated": _nullable("boolean", "True asks the user to run it outside the sandbox."),
            "justification": _nullable("string", "With escalated: why, as a short question."),
        },
    ),
    _tool(
        "apply_patch",
        _PATCH_FORMAT,
        {"patch": {"type": "string", "description": "From Begin Patch to End Patch."}},
    ),
    _tool(
        "update_plan",
        "Show the user what is to be done and how far it is. Give the whole list every time.",
        {
            "explanation": _nullable("string", "Why the list changed."),
            "plan": {
                "type": "array",
                "description": "The steps, in order; at most one of them in_progress.",
                "items": {
                    "type": "object",
                    "properties": {
                        "step": {"type": "string"},
                        "status": {
                            "type": "string",
                            "enum": ["pending", "in_progress", "completed"],
                        },
                    },
                    "required": ["step", "status"],
                    "additionalProperties": False,
                },
            },
        },
    ),
)


TOOL_NAMES = frozenset(str(tool["name"]) for tool in TOOLS)


def chat_tools() -> list[dict[str, object]]:
    """Return the tools for Chat Completions: not strict, what is optional is not required.

    Endpoints there know less of JSON Schema: lists of types are refused by some.
    """
    return [{"type": "function", "function": _loose(tool)} for tool in TOOLS]


def _loose(tool: dict[str, object]) -> dict[str, object]:
    parameters = tool["parameters"]
    assert isinstance(parameters, dict)
    properties: dict[str, dict[str, object]] = {}
    required: list[str] = []
    for name, schema in parameters["properties"].items():
        properties[name] = schema
        if isinstance(schema["type"], list):
            told = schema["description"].replace("null:", "left out:")
            properties[name] = {"type": schema["type"][0], "description": told}
        else:
            required.append(name)
    return {
        "name": tool["name"],
        "description": tool["description"],
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


def without_nulls(arguments: str) -> str:
    """Return the arguments of a call without members that are null.

    Text that is not a JSON object is returned as it is: who runs the call answers it.
    """
    try:
        members = msgspec.json.decode(arguments, type=dict[str, object])
    except msgspec.DecodeError:
        return arguments
    kept = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(kept).decode()
