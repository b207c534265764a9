// SPDX-License-Identifier: Apache-2.0
// Sends an empty line over TLS and prints what comes back.
const fs = require("fs"), tls = require("tls");
const [port, name, ca, version, groups] = process.argv.slice(2);
const conn = tls.connect({ host: "127.0.0.1", port: Number(port), servername: name, ca: fs.readFileSync(ca),
  minVersion: "TLSv" + version, maxVersion: "TLSv" + version, ecdhCurve: groups });
conn.on("error", (e) => { console.error(e); process.exit(1); });
conn.pipe(process.stdout);
conn.write("\n");
