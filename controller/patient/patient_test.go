// SPDX-License-Identifier: Apache-2.0

package patient

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// A watch outlives that nobody listens; other requests say so at once, and so
// does a watch that nobody waits for any more.
func TestWatchesWaitForAServerThatIsAway(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s")
	client := &http.Client{Transport: watches{&http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}}}}
	defer client.CloseIdleConnections()
	get := func(ctx context.Context, query string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server/api/v1/secrets"+query, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(r)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}

	if err := get(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a list while the server is away: %v, want that there is none", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := get(short, "?watch=true"); err == nil {
		t.Error("a watch that nobody waits for succeeds without a server")
	}
	watched := make(chan error, 1)
	go func() { watched <- get(t.Context(), "?resourceVersion=1&watch=true") }()
	select {
	case err := <-watched:
		t.Fatalf("the watch did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	if err := <-watched; err != nil {
		t.Errorf("the watch after the server is back: %v", err)
	}
}
