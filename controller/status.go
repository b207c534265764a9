// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// statusWriter writes what the translator says to the objects.
type statusWriter struct {
	client  client.Client
	reader  client.Reader // asks the API server
	version func(kind string) client.Object
	log     *slog.Logger
	metrics *metrics
	teller  *teller

	mu sync.Mutex
	// newer are objects that are ahead of the watch: as we wrote them, or as
	// they were when somebody else was faster.
	newer map[translate.Key]client.Object
	// written is what we wrote last, by object.
	written map[translate.Key]*written
	// paused are the objects whose status could not be written.
	paused map[translate.Key]hold
}

// hold keeps an object from being written again at once.
type hold struct {
	until time.Time
	delay time.Duration
}

const (
	// settling is how old an object is before anybody is told that it refers to
	// something that does not exist.
	settling     = 5 * time.Second
	firstPause   = 100 * time.Millisecond
	longestPause = time.Minute
	// An object may be written so often a second in the long run, and so many
	// times at once: somebody else may undo what we write for ever.
	writeRate, writeBurst = 3, 30
)

type written struct {
	version string
	pace    *rate.Limiter
}

// reset forgets everything: another replica may have written since.
func (w *statusWriter) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newer, w.written, w.paused = map[translate.Key]client.Object{}, map[translate.Key]*written{}, map[translate.Key]hold{}
}

// refresh replaces objects of a kind by newer ones that are known, and forgets
// those that the watch has caught up with.
func (w *statusWriter) refresh(kind string, objects []client.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.newer) == 0 {
		return
	}
	present := map[translate.Key]bool{}
	for i, o := range objects {
		k := translate.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
		n := w.newer[k]
		switch {
		case n == nil:
		case n.GetUID() == o.GetUID() && publication.Version(n) > publication.Version(o):
			objects[i], present[k] = n, true
		default:
			delete(w.newer, k)
		}
	}
	for k := range w.newer {
		if k.Kind == kind && !present[k] {
			delete(w.newer, k)
		}
	}
}

// isOwn tells whether a version of an object is what we wrote.
func (w *statusWriter) isOwn(k translate.Key, version string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := w.written[k]
	return had != nil && had.version == version
}

// write writes the statuses that are not as they should be. objects become as
// they are then, but for what others changed. again is when to come back for
// those that could not be written, 0 for never.
func (w *statusWriter) write(ctx context.Context, objects map[translate.Key]client.Object, statuses []translate.Status) (again time.Duration) {
	now := time.Now()
	written := map[translate.Key]client.Object{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(concurrency)
	for i := range statuses {
		s := &statuses[i]
		k := s.Key()
		o := objects[k]
		if o == nil || ctx.Err() != nil {
			continue
		}
		have, want := statusOf(o, s)
		if have == nil && len(s.Warnings) > 0 {
			// What it refers to may be on its way, in the same kubectl apply.
			if age := now.Sub(o.GetCreationTimestamp().Time); age < settling {
				again = sooner(again, settling-age)
			} else {
				w.teller.tell(o, nil, nil, s.Warnings)
			}
			continue
		}
		if have == nil || equality.Semantic.DeepEqual(have, want) {
			continue
		}
		if wait := w.wait(k, now); wait > 0 {
			again = sooner(again, wait)
			continue
		}
		group.Go(func() error {
			if now := w.put(ctx, k, o, withStatus(o, s)); now != nil {
				w.teller.tell(o, have, want, s.Warnings)
				mu.Lock()
				defer mu.Unlock()
				written[k] = now
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	maps.Copy(objects, written)
	w.teller.forget(objects)
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, p := range w.paused {
		if objects[k] == nil || now.Sub(p.until) > longestPause {
			delete(w.paused, k)
		} else if p.until.After(now) {
			again = sooner(again, p.until.Sub(now))
		}
	}
	for k := range w.written {
		if objects[k] == nil {
			delete(w.written, k)
		}
	}
	return again
}

// wait is how long an object must wait before it may be written.
func (w *statusWriter) wait(k translate.Key, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.paused[k]; ok && now.Before(p.until) {
		return p.until.Sub(now)
	}
	if had := w.written[k]; had != nil {
		r := had.pace.ReserveN(now, 1)
		if d := r.DelayFrom(now); d > 0 {
			r.CancelAt(now)
			return d
		}
	}
	return 0
}

// sooner returns the shorter of two times, where 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// put writes the status of an object, and returns the object as it is then, nil
// when it could not be written.
func (w *statusWriter) put(ctx context.Context, k translate.Key, had, changed client.Object) client.Object {
	version := w.version(k.Kind)
	if version == nil {
		return nil // its CRD has just gone
	}
	now, err := updateStatus(ctx, w.client, version, changed)
	switch {
	case err == nil:
		w.metrics.writes.WithLabelValues("written").Inc()
		w.note(k, now, true)
		return now
	case apierrors.IsNotFound(err):
		w.metrics.writes.WithLabelValues("gone").Inc()
	case apierrors.IsConflict(err):
		// Somebody else was faster. What they wrote is taken into account.
		w.metrics.writes.WithLabelValues("conflict").Inc()
		now, err := readAgain(ctx, w.reader, version, had)
		if err == nil {
			w.note(k, now, false)
		}
		w.postpone(k)
	case ctx.Err() != nil:
	default:
		w.metrics.writes.WithLabelValues("failed").Inc()
		w.log.Warn("cannot write status; will try again", "object", k.String(), "error", err)
		w.postpone(k)
	}
	return nil
}

// note remembers an object that is ahead of the watch.
func (w *statusWriter) note(k translate.Key, o client.Object, ours bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newer[k] = o
	if !ours {
		return
	}
	delete(w.paused, k)
	if w.written[k] == nil {
		w.written[k] = &written{pace: rate.NewLimiter(writeRate, writeBurst)}
	}
	w.written[k].version = o.GetResourceVersion()
}

func (w *statusWriter) postpone(k translate.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delay := min(max(2*w.paused[k].delay, firstPause), longestPause)
	w.paused[k] = hold{time.Now().Add(delay), delay}
}
