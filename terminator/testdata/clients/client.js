// SPDX-License-Identifier: Apache-2.0
// Sends a file over TLS and writes what comes back into another, to its end.
const fs = require("fs"), tls = require("tls");
const [port, ca, up, down] = process.argv.slice(2);
const conn = tls.connect({ host: "127.0.0.1", port: Number(port), servername: "a.example", ca: fs.readFileSync(ca),
  minVersion: "TLSv1.3", allowHalfOpen: true });
const out = fs.createWriteStream(down);
conn.on("error", (e) => { console.error(e); process.exit(1); });
fs.createReadStream(up).pipe(conn); // and ends it
conn.pipe(out);
