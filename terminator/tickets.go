// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// A ticket key encrypts new tickets for ticketRotation and opens old ones for
// as long again.
const ticketRotation = 12 * time.Hour

// trust identifies a trust domain: the listener, by name, and everything that
// a client could have verified or been checked against in a full handshake.
type trust [sha256.Size]byte

func (st *state) trustOf(l *config.Listener, certificates []*certificate) trust {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d\n", l.Name, l.Hostname, l.TLS.MinVersion)
	for _, c := range certificates {
		h.Write(c.id[:])
	}
	if v := l.TLS.ClientValidation; v != nil {
		fmt.Fprintf(h, "clients %t\n", v.Optional)
		st.identify(h, v.Authorities)
	}
	return trust(h.Sum(nil))
}

// tickets are the session ticket keys of one trust domain. They live in memory
// only and end with the domain.
type tickets struct {
	mu      sync.Mutex
	keys    [][32]byte // newest first
	made    time.Time
	configs []*tls.Config // of the present snapshot
}

func newTickets(now time.Time) *tickets {
	t := &tickets{}
	t.add(now)
	return t
}

func (t *tickets) add(now time.Time) {
	var key [32]byte
	_, _ = rand.Read(key[:])
	t.keys = append([][32]byte{key}, t.keys[:min(1, len(t.keys))]...)
	t.made = now
}

// use gives the keys to the configs of a snapshot.
func (t *tickets) use(configs ...*tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.configs = configs
	for _, c := range configs {
		c.SetSessionTicketKeys(t.keys)
	}
}

// rotate makes a new key when the present one is old.
func (t *tickets) rotate(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.made) < ticketRotation {
		return
	}
	t.add(now)
	for _, c := range t.configs {
		c.SetSessionTicketKeys(t.keys)
	}
}

// bindTickets ties each ticket of a config to the server name that it was
// issued for (RFC 6066 section 3): another name may mean another certificate
// and another route.
func bindTickets(c *tls.Config) {
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, nameTag(cs))
		return c.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := c.DecryptTicket(identity, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		for _, e := range ss.Extra {
			if bytes.Equal(e, nameTag(cs)) {
				return ss, nil
			}
		}
		return nil, nil
	}
}

func nameTag(cs tls.ConnectionState) []byte { return []byte("sluice/sni=" + normalName(cs.ServerName)) }
