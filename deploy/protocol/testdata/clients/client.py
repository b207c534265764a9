# SPDX-License-Identifier: Apache-2.0
# Sends an empty line over TLS and prints the line that comes back.
import socket, ssl, sys

port, name, ca, version, group = int(sys.argv[1]), *sys.argv[2:6]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = ssl.TLSVersion["TLSv" + version.replace(".", "_")]
if group:
    context.set_ecdh_curve(group)
with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=name) as conn:
    conn.sendall(b"\n")
    print(conn.makefile().readline(), end="", flush=True)
