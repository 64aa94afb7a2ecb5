"""gRPC between nodes: see network.py for how the parts fit together."""

import os

# Before grpc is imported anywhere: no fork of ours uses grpc, and its fork handlers print a line for each subprocess that is started.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# It writes lines of its own format to stderr for what the sessions report anyway (a lost connection); its errors stay visible.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# The poller of before the event engine: a message costs a quarter less CPU and a round trip on loopback takes less than half the time, because it
# goes through fewer threads (docs/adr/0041). The names are those of the grpcio versions that pyproject.toml allows.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
