// SPDX-License-Identifier: Apache-2.0
// Sends back what it gets. usage: node echo.js PORT
const net = require("net");
net.createServer({ allowHalfOpen: true }, (s) => {
	s.on("error", () => s.destroy()); // the client sees it
	s.pipe(s);
}).listen(Number(process.argv[2]), "0.0.0.0");
