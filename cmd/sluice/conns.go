// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sluice-gateway/sluice/terminator"
)

func conns(e *env, flags *flag.FlagSet, args []string) error {
	admin := flags.String("admin", defaultAdmin(), "`path` of the admin socket")
	output := flags.String("o", "text", "output `format`: text or json")
	watch := flags.Bool("w", false, "watch: show them anew every second")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(e.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for {
		raw, err := ask(*admin, "connections")
		if err != nil {
			return err
		}
		if *watch {
			fmt.Fprint(e.stdout, "\x1b[H\x1b[2J") // cursor home, clear the screen
		}
		if *output == "json" {
			err = printRaw(e.stdout, raw, *output)
		} else {
			err = printConnections(e.stdout, raw, time.Now())
		}
		if err != nil || !*watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func printConnections(w io.Writer, raw []byte, now time.Time) error {
	var all []terminator.Connection
	if err := json.Unmarshal(raw, &all); err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	// The certificates of clients have a column where there are any.
	known := slices.ContainsFunc(all, func(c terminator.Connection) bool { return c.ClientCertificate != "" })
	row := func(certificate string, cells ...string) {
		if known {
			cells = append(cells, certificate)
		}
		printRow(t, cells)
	}
	row("CERTIFICATE", "CLIENT", "SNI", "ROUTE", "ENDPOINT", "UP", "DOWN", "AGE", "TLS", "PATH", "REASON")
	for _, c := range all {
		row(certificateText(c), c.Client.String(), dash(c.SNI), dash(cmp.Or(c.Route, c.Listener)), dash(c.Endpoint),
			size(c.Up), size(c.Down), age(now.Sub(c.Start)), dash(c.TLSVersion), dash(c.Path), dash(c.Reason))
	}
	return t.Flush()
}

func certificateText(c terminator.Connection) string {
	if c.ClientCertificateProblem != "" {
		return c.ClientCertificate + " (not verified: " + c.ClientCertificateProblem + ")"
	}
	return dash(c.ClientCertificate)
}

func dash(s string) string { return cmp.Or(s, "-") }

// size prints bytes with a binary prefix.
func size(n int64) string {
	digits, prefix := amount(n)
	return digits + prefix
}

// amount takes a number apart, into digits and binary prefix: 3 digits are enough
// to compare.
func amount(n int64) (digits, prefix string) {
	if n < 1<<10 {
		return fmt.Sprint(n), ""
	}
	f, unit := float64(n), 0
	for ; f >= 1000 && unit < 4; unit++ {
		f /= 1024
	}
	return fmt.Sprintf("%.3g", f), string(" KMGT"[unit]) + "i"
}
