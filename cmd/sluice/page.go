// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluice-gateway/sluice/agent"
)

//go:embed web
var webFiles embed.FS

var pageTemplate = template.Must(template.New("").Funcs(template.FuncMap{"join": strings.Join}).ParseFS(webFiles, "web/*.html"))

// sections are the parts of the page that change while somebody looks at it:
// templates, and the elements that have their names.
var sections = []string{"head", "figures", "nodes", "path", "problems", "objects", "certificates", "connections"}

// What the page may load: its own style, script, picture and events.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

const (
	// mostWatchers bounds what looking costs a gateway.
	mostWatchers = 16
	// streamTime is for how long a page is fed before it asks anew, which finds
	// the successor of an agent that has handed over.
	streamTime = 25 * time.Second
)

// page shows gateways to people. It only reads.
type page struct {
	subject
	watchers chan struct{}
	history  history
}

func newPage(of subject) *page {
	if of.objects != nil {
		of.objects = seldom(of.objects)
	}
	return &page{subject: of, watchers: make(chan struct{}, mostWatchers), history: history{window: 5 * of.every}}
}

// seldom asks the API server for all objects every half a minute at most.
func seldom(get func(context.Context) (resourceStatus, error)) func(context.Context) (resourceStatus, error) {
	var mu sync.Mutex
	var last resourceStatus
	var at time.Time
	return func(ctx context.Context) (resourceStatus, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) < 30*time.Second {
			return last, nil
		}
		got, err := get(ctx)
		if err == nil {
			last, at = got, time.Now()
		}
		return last, err
	}
}

func (p *page) handler() http.Handler {
	files, err := fs.Sub(webFiles, "web")
	if err != nil {
		panic(err) // it is embedded
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.whole)
	mux.HandleFunc("GET /events", p.events)
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		mux.Handle("GET /"+name, http.FileServerFS(files))
	}
	return agent.OnlyByAddress(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	}))
}

// look asks the nodes and makes what the page shows of their answers.
func (p *page) look(ctx context.Context, search string) (*view, error) {
	answers, err := p.nodes(ctx, search)
	if err != nil {
		return nil, err
	}
	v := &view{Search: search, Cluster: p.cluster, now: time.Now()}
	for _, a := range answers {
		n := nodeOverview{Node: a.Node, Error: a.Error}
		if n.Error == "" {
			if err := json.Unmarshal(a.Answer, &n.overview); err != nil {
				n.Error = fmt.Sprintf("its answer cannot be read: %s; is its version the one of this program?", err)
			}
		}
		v.add(&n)
	}
	if p.objects != nil {
		if v.objects, err = p.objects(ctx); err != nil {
			v.Warnings = append(v.Warnings, fmt.Sprintf("what became of objects is not known: %s; kubectl describe shows their conditions", err))
		}
	}
	v.finish(&p.history)
	return v, nil
}

func (p *page) whole(w http.ResponseWriter, r *http.Request) {
	v, err := p.look(r.Context(), r.FormValue("q"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	var out bytes.Buffer
	if err := pageTemplate.ExecuteTemplate(&out, "page.html", v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = out.WriteTo(w)
}

// events feeds a page: each section when it has changed, as a server-sent event
// of its name.
func (p *page) events(w http.ResponseWriter, r *http.Request) {
	select {
	case p.watchers <- struct{}{}:
		defer func() { <-p.watchers }()
	default:
		http.Error(w, "too many look at this already; close a page", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	response := http.NewResponseController(w)
	search, sent := r.FormValue("q"), map[string]string{}
	fmt.Fprint(w, "retry: 500\n\n")
	_ = response.Flush()
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for end := time.Now().Add(streamTime); time.Now().Before(end); {
		v, err := p.look(r.Context(), search)
		if err != nil {
			return
		}
		// A cluster may have taken its time.
		_ = response.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if sendChanges(w, v, sent) != nil || response.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func sendChanges(w io.Writer, v *view, sent map[string]string) error {
	var out bytes.Buffer
	for _, name := range sections {
		var html strings.Builder
		if err := pageTemplate.ExecuteTemplate(&html, name, v); err != nil {
			return err
		}
		if before, ok := sent[name]; ok && html.String() == before {
			continue
		}
		sent[name] = html.String()
		// Each of the three ends a line there, and a name may have any of them.
		lines := strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")
		fmt.Fprintf(&out, "event: %s\ndata: %s\n", name, lines.Replace(sent[name]))
		out.WriteString("\n")
	}
	if out.Len() == 0 {
		out.WriteString(":\n\n") // somebody may have gone
	}
	_, err := out.WriteTo(w)
	return err
}
