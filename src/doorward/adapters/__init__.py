"""The outside: the only room that imports a driver, opens a socket or starts a process."""
