// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestWhatLibrariesLogIsForThoseWhoDebug(t *testing.T) {
	was := slog.Default()
	t.Cleanup(func() {
		slog.SetDefault(was)
		log.SetOutput(os.Stderr)
		log.SetFlags(log.LstdFlags)
	})
	for level, want := range map[slog.Level]string{slog.LevelInfo: "", slog.LevelDebug: "level=DEBUG msg=\"Unsolicited response\"\n"} {
		var b bytes.Buffer
		newLog(&b, level)
		log.Print("Unsolicited response")
		if _, got, _ := strings.Cut(b.String(), " "); got != want {
			t.Errorf("at level %s the log has %q, want %q", level, got, want)
		}
	}
}
