// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/sluice-gateway/sluice/bench/figures"
)

const head = `# What is claimed, and what was counted

Made by ` + "`make reliability`" + ` of what the tests themselves have counted: run with
` + "`SLUICE_FIGURES=$PWD/deploy/reliability/figures`" + `, each leaves its figures there, whether it
passes or fails. Do not edit. A test that has not been run since says so. Bytes
are those that were compared with what they must be.

`

const serversHead = `
## In front of servers that people run

` + "`make servers FIGURES=deploy/reliability/figures`" + `: Debian's packages and their own clients, with
splice, event loop and record loop on and off; plain TCP, path *kernel*, is not spliced and has no
records. Versions are what the servers say of themselves: Node was not Debian's 18, but 20, of another
packager.

- *spliced* of a server that itself reads by splice(2) (Go's io.Copy, HAProxy) is the direction
  to the client only; the other one goes by TCP.
- *relay tcp_busy*: the server always had bytes in TCP when it wrote.
- *relay reader_unproven*: the connection ended, or was reset, before four reads had shown that
  its server reads by recvmsg(2); until then all goes by TCP.
- *relay reader_blocks*: the server was seen to read a blocking socket, and in a sockmap
  such a read may return EAGAIN, so its endpoint joins no more (the first connection told).
- *relay reader_fionread*: it asks FIONREAD, which this kernel answers wrongly for members of a
  sockmap (one connection may be reset before it is known, the first).

| server and client | mode | connections by path and reason | bytes | result | date, kernel | command |
|---|---|---|---|---|---|---|
`

const fuzzHead = `
## Fuzzing

` + "`make fuzz FIGURES=deploy/reliability/figures`" + `: what each target (a Go fuzz test) was given
in all its runs for this page since one failed. The CPU time is that of its processes, and of
building them; the date is that of the last.

| target | inputs | CPU minutes | failures | result | date, kernel | command |
|---|---|---|---|---|---|---|
`

const serversPackage = "deploy/servers"

// page is RELIABILITY.md.
func page(claims []claim, entries []figures.Entry) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("| claim | connections | bytes | faults | failures | result | date, kernel | command |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range claims {
		runs := c.runs(entries)
		if len(runs) == 0 {
			fmt.Fprintf(&b, "| %s | | | | | not run | | %s |\n", c.says(), c.command())
		}
		for i, e := range runs {
			says := c.says()
			if i > 0 {
				says = ""
			}
			if mode := strings.TrimPrefix(strings.TrimPrefix(e.Test, c.test), "/"); mode != "" {
				says = strings.TrimSpace(says + " *" + words(mode) + "*")
			}
			faults := number(e.Faults)
			if e.What != "" {
				faults = strings.TrimSpace(faults + " (" + e.What + ")")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %s | %s | %s |\n", says, number(e.Connections), size(e.Bytes), faults,
				e.Failures, result(e), when(e), c.command())
		}
	}
	b.WriteString(fuzzHead)
	for _, e := range entries {
		if strings.HasPrefix(e.Test, "Fuzz") {
			fmt.Fprintf(&b, "| %s.%s | %s | %.1f | %d | %s | %s | `make fuzz TESTS='^%s.%s$'` |\n", e.Package, e.Test,
				number(e.Inputs), float64(e.CPUSeconds)/60, e.Failures, result(e), when(e), e.Package, e.Test)
		}
	}
	b.WriteString(serversHead)
	before := ""
	for _, e := range entries {
		if e.Package != serversPackage {
			continue
		}
		who := e.Server + "; " + e.Client
		if who == before {
			who = ""
		} else {
			before = who
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | `make servers TESTS='%s$'` |\n", who, words(e.Test[strings.LastIndex(e.Test, "/")+1:]), e.What,
			size(e.Bytes), result(e), when(e), regexp.QuoteMeta(e.Test))
	}
	if before == "" {
		b.WriteString("| not run | | | | | | `make servers` |\n")
	}
	return b.String()
}

// words undoes what go test does to the names of subtests.
func words(subtest string) string { return strings.ReplaceAll(subtest, "_", " ") }

func result(e figures.Entry) string {
	if !e.Passed {
		return "**failed**"
	}
	return "passed"
}

func when(e figures.Entry) string { return e.Date + ", " + e.Kernel }

// number has a comma after each three digits; 0 is nothing, for what a test does
// not count.
func number(n int64) string {
	if n == 0 {
		return ""
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	switch {
	case n == 0:
		return ""
	case n < 1e6:
		return number(n)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
