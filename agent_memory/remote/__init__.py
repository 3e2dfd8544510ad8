"""A memory that a server holds: ``RemoteMemory`` has the methods of ``Memory`` and sends them over HTTP."""
