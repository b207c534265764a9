# SPDX-License-Identifier: Apache-2.0
# Sends a file over TLS and writes what comes back into another, to its end.
import socket, ssl, sys, threading

port, ca, up, down = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = ssl.TLSVersion.TLSv1_3
conn = context.wrap_socket(socket.create_connection(("127.0.0.1", port)),
                           server_hostname="a.example", suppress_ragged_eofs=False)
with open(up, "rb") as f, open(down, "wb") as out:
    sender = threading.Thread(target=lambda: conn.sendall(f.read()))
    sender.start()
    while p := conn.recv(65536):
        out.write(p)
    sender.join()
