"""JSON-RPC and MCP in both eras as pure functions over bytes and messages: no sockets, no clocks."""
