"""Runs a command while a server runs: python with_server.py [OPTION…] -- COMMAND…

URL in the command is replaced by the server's address. The options are the server's.
"""
import os
import subprocess
import sys

from server import running

options, command = sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]
with running(*options) as server:
    server.wait_ready()
    command = [part.replace("URL", server.url) for part in command]
    status = subprocess.run(command, env={**os.environ, "GTE_URL": server.url}).returncode
    assert server.process.poll() is None, "the server died"
    assert not [line for line in server.errors if "panicked" in line or '"level":"ERROR"' in line], server.errors
    assert server.stop() == 0, "the server did not end well"
sys.exit(status)
