"""The Language Server Protocol as a proxy sees it: names, and how a server is sent home.

https://microsoft.github.io/language-server-protocol, 3.18. Nothing is added to its
messages, and nothing but names is read of them: documents are the user's.
"""

from typing import Final

METHODS: Final = frozenset(
    """
    callHierarchy/incomingCalls callHierarchy/outgoingCalls codeAction/resolve codeLens/resolve
    completionItem/resolve documentLink/resolve initialize inlayHint/resolve shutdown
    textDocument/codeAction textDocument/codeLens textDocument/colorPresentation
    textDocument/completion textDocument/declaration textDocument/definition
    textDocument/diagnostic textDocument/documentColor textDocument/documentHighlight
    textDocument/documentLink textDocument/documentSymbol textDocument/foldingRange
    textDocument/formatting textDocument/hover textDocument/implementation
    textDocument/inlayHint textDocument/inlineCompletion textDocument/inlineValue
    textDocument/linkedEditingRange textDocument/moniker textDocument/onTypeFormatting
    textDocument/prepareCallHierarchy textDocument/prepareRename
    textDocument/prepareTypeHierarchy textDocument/rangeFormatting
    textDocument/rangesFormatting textDocument/references textDocument/rename
    textDocument/selectionRange textDocument/semanticTokens/full
    textDocument/semanticTokens/full/delta textDocument/semanticTokens/range
    textDocument/signatureHelp textDocument/typeDefinition textDocument/willSaveWaitUntil
    typeHierarchy/subtypes typeHierarchy/supertypes workspace/diagnostic
    workspace/executeCommand workspace/symbol workspace/textDocumentContent
    workspace/willCreateFiles workspace/willDeleteFiles workspace/willRenameFiles
    workspaceSymbol/resolve
    """.split()
)
"""What a client asks."""

SERVER_REQUESTS: Final = frozenset(
    """
    client/registerCapability client/unregisterCapability window/showDocument
    window/showMessageRequest window/workDoneProgress/create workspace/applyEdit
    workspace/codeLens/refresh workspace/configuration workspace/diagnostic/refresh
    workspace/foldingRange/refresh workspace/inlayHint/refresh workspace/inlineValue/refresh
    workspace/semanticTokens/refresh workspace/textDocumentContent/refresh
    workspace/workspaceFolders
    """.split()
)
"""What a server asks."""

SHUTDOWN: Final = "shutdown"
"""A server that was asked this ends when it hears `exit`, with code 0."""

EXIT: Final = b'{"jsonrpc":"2.0","method":"exit"}'


def shutdown(key: bytes) -> bytes:
    """The request that has to be answered before `exit`."""
    return b'{"jsonrpc":"2.0","id":%b,"method":"shutdown"}' % key


def cancelled(request_id: bytes) -> bytes:
    """The notification that ends a request; the server answers it all the same."""
    return b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%b}}' % request_id
