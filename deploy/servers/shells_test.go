// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"crypto/md5"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

var shells = []server{{
	name: "openssh", version: []string{"sh", "-c", "ssh -V 2>&1"},
	start: func(m *machine) netip.AddrPort {
		for _, key := range []string{"host", "user"} {
			m.must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
		}
		m.must("mkdir", "-p", "/run/sshd") // of privilege separation
		return m.start(22, "/usr/sbin/sshd", "-D", "-e", "-f", m.file("sshd_config", fmt.Sprintf(`
HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
PidFile %[1]s/pid
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
`, m.dir)))
	},
	uses: []use{
		{client: "ssh through openssl s_client, 20 MB each way and 2,000 lines", blocks: true, run: shell},
	},
}}

func shell(t *testing.T, g *gateway) int64 {
	const size, many = 20 << 20, 2000
	keys, err := filepath.Glob(filepath.Join(site.dir, "openssh-*", "user"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("%q, %v", keys, err)
	}
	ssh := func(input, command string) string {
		t.Helper()
		tunnel := fmt.Sprintf("openssl s_client -quiet -connect 127.0.0.1:%s -servername %s -verify_hostname %[2]s -verify_return_error -CAfile %s 2>/dev/null", g.tls, name, g.ca)
		return client(t, input, "ssh", "-F", "none", "-i", keys[0], "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "LogLevel=ERROR", "-o", "ProxyCommand="+tunnel, "root@"+name, command)
	}
	value := string(random(size))
	if got, want := ssh(value, "md5sum"), fmt.Sprintf("%x  -\n", md5.Sum([]byte(value))); got != want {
		t.Errorf("up: %q, want %q", got, want)
	}
	if got := ssh(value, "cat"); got != value {
		t.Errorf("up and down: %d bytes came back, not the %d that were sent", len(got), size)
	}
	var in strings.Builder
	for i := range many {
		fmt.Fprintln(&in, message(i))
	}
	if got := ssh(in.String(), "while read line; do echo $line; done"); got != in.String() {
		t.Errorf("lines: %d bytes came back, want %d", len(got), in.Len())
	}
	return 3*size + 2*int64(in.Len())
}
