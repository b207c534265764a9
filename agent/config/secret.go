// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is bytes that must never be shown. Every way to print or marshal it
// gives "[redacted]"; code that needs the bytes converts it: []byte(s).
type Secret []byte

var (
	_ fmt.Formatter  = Secret(nil)
	_ slog.LogValuer = Secret(nil)
	_ fmt.GoStringer = Secret(nil)
	_ fmt.Stringer   = Secret(nil)
)

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb, %x and %v alike.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]", so JSON and YAML show nothing else.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText makes s empty: what marshals as "[redacted]" has no bytes to
// come back. Whoever sends secrets sends them beside the snapshot.
func (s *Secret) UnmarshalText([]byte) error {
	*s = nil
	return nil
}
