// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/infrastructure"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// loop is the one reconciliation: it lists everything, translates, publishes
// what differs and writes the statuses that differ. It runs while this replica
// leads.
type loop struct {
	log          *slog.Logger
	metrics      *metrics
	client       client.Client
	watch        *watch
	nodes        *nodes
	secrets      *contents[*corev1.Secret]
	configMaps   *contents[*corev1.ConfigMap]
	publisher    *publisher
	statusWriter *statusWriter
	services     *infrastructure.Maker
	news         *news

	previous    *config.Snapshot
	translation *translate.Translation // the last one
	addresses   map[netip.Addr]string  // of the nodes, that it knows, with their names
	// objects are those that were translated, and where the status was written
	// since, as they are now. What others changed is not in them.
	objects  map[translate.Key]client.Object
	feedback translate.Feedback // as it was last
	statuses []translate.Status // as they were then
	took     time.Duration      // to make them
	asked    time.Time          // for the rights to make Services
	problems map[string]bool    // as they were logged
}

const (
	// quiet is how long changes gather before they are looked at: what kubectl
	// applies comes in several objects.
	quiet = 20 * time.Millisecond
	// look is how often it is looked which nodes live.
	look = time.Second
	// firstRetry and longestRetry are how long it takes to try again what the
	// API server did not do.
	firstRetry, longestRetry = time.Second, 30 * time.Second
	// idle is when everything is looked at though nothing changed: certificates
	// expire.
	idle = 10 * time.Minute
)

// run works until ctx ends.
func (l *loop) run(ctx context.Context) {
	if !l.begin(ctx) {
		return
	}
	l.log.Info("this replica leads: it publishes and writes statuses")
	defer l.log.Info("this replica leads no more")
	tick := time.NewTicker(look)
	defer tick.Stop()
	delay := firstRetry
	for due := time.Now(); ; {
		live := l.nodes.live()
		again := time.Duration(0)
		if l.outdated(due, live) {
			var err error
			again, err = l.step(ctx, live)
			if err != nil && ctx.Err() == nil {
				l.log.Warn("not everything could be done; will try again", "in", delay.String(), "error", err)
				again = sooner(again, delay)
				delay = min(2*delay, longestRetry)
			} else {
				delay = firstRetry
			}
			due = time.Now().Add(idle)
		} else {
			again = l.hear(ctx, live)
		}
		if t := time.Now().Add(again); again > 0 && t.Before(due) {
			due = t
		}
		// What takes long is done in larger steps: half of the time at most, while
		// that is worth waiting for.
		if !pause(ctx, min(l.took, look)) || !l.wait(ctx, tick.C, time.After(time.Until(due)), live) {
			return
		}
	}
}

// begin waits for the watch and finds out what is published. It tells whether
// that came before ctx ended.
func (l *loop) begin(ctx context.Context) bool {
	l.statusWriter.reset()
	for !l.watch.isComplete() {
		if !pause(ctx, poll) {
			return false
		}
	}
	for {
		previous, err := l.publisher.load(ctx)
		if err == nil {
			l.previous = previous
			return true
		}
		if ctx.Err() == nil {
			l.log.Warn("cannot begin yet; will try again", "error", err)
		}
		if !pause(ctx, firstRetry) {
			return false
		}
	}
}

// wait waits for something to do, and tells whether ctx goes on.
func (l *loop) wait(ctx context.Context, tick, due <-chan time.Time, live []publication.Node) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due:
			return true
		case <-l.news.wake:
			return pause(ctx, quiet)
		case <-tick:
			l.forget(ctx)
			if !slices.Equal(names(live), names(l.nodes.live())) {
				return true
			}
		}
	}
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// forget deletes the Leases of nodes that are gone for good.
func (l *loop) forget(ctx context.Context) {
	for _, o := range l.nodes.dead() {
		err := l.client.Delete(ctx, o, client.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			l.log.Warn("cannot delete the Lease of a node that is gone", "lease", o.Name, "error", err)
		}
	}
}

// outdated tells whether there is anything else to translate than last time.
// That something changed which this replica wrote is nothing.
func (l *loop) outdated(due time.Time, live []publication.Node) bool {
	changed := l.news.take()
	maps.DeleteFunc(changed, func(k translate.Key, version string) bool {
		return l.statusWriter.isOwn(k, version) || l.publisher.isOwn(k, version)
	})
	return len(changed) > 0 || !time.Now().Before(due) || !maps.Equal(addresses(live), l.addresses)
}

// step does everything once. again is when to come back, 0 for when something
// changes.
func (l *loop) step(ctx context.Context, live []publication.Node) (again time.Duration, err error) {
	r, objects := l.list()
	unread, secretsErr := l.secrets.refresh(ctx, referredSecrets(&r), l.watch.store(secretKind))
	r.Secrets = append(l.secrets.all(), l.lastGood(unread)...)
	unread, configMapsErr := l.configMaps.refresh(ctx, referredConfigMaps(&r), l.watch.store(configMapKind))
	r.ConfigMaps = append(l.configMaps.all(), l.lastTrusted(unread)...)

	began := time.Now()
	l.objects, l.addresses = objects, addresses(live)
	l.translation = translate.Translate(r, translate.Options{ControllerName: ControllerName, Now: began.Truncate(time.Second), Previous: l.previous,
		ByNode: true, NodeAddresses: slices.SortedFunc(maps.Keys(l.addresses), netip.Addr.Compare), NodeNames: l.addresses,
		BundleVersion: l.watch.bundleVersion()})
	l.previous = l.translation.Snapshot
	l.took = time.Since(began)
	l.metrics.translations.Observe(l.took.Seconds())

	publishErr := l.publisher.publish(ctx, l.translation.Parts, l.watch.store(secretKind))
	l.askForRights(ctx)
	l.feedback.Reports, l.feedback.Unmade = l.report(live), nil
	l.statuses = l.translation.Statuses(l.feedback)
	unmade, servicesErr := l.services.Apply(ctx, l.statuses, r.Services)
	if len(unmade) > 0 {
		l.feedback.Unmade = unmade
		l.statuses = l.translation.Statuses(l.feedback)
	}
	again = l.statusWriter.write(ctx, l.objects, l.statuses)
	holdErr := l.holdClasses(ctx, &r)
	l.tell()
	l.log.Debug("reconciled", "gateways", len(r.Gateways), "nodes", len(live), "seconds", time.Since(began).Seconds())
	return again, errors.Join(secretsErr, configMapsErr, publishErr, servicesErr, holdErr)
}

// hear brings the statuses in line with what nodes say, where that is all that
// changed. again is as step has it.
func (l *loop) hear(ctx context.Context, live []publication.Node) (again time.Duration) {
	began := time.Now()
	reports := l.report(live)
	if reflect.DeepEqual(reports, l.feedback.Reports) {
		return 0
	}
	before := l.feedback
	l.feedback.Reports = reports
	changed := l.translation.Reported(began.Truncate(time.Second), before, l.feedback, l.statuses)
	l.took = time.Since(began)
	if len(changed) == 0 {
		return 0
	}
	l.statuses = translate.Updated(l.statuses, changed)
	again = l.statusWriter.write(ctx, l.objects, changed)
	l.tell()
	return again
}

// askForRights finds out whether Services can be made for Gateways, now and then:
// nobody tells when rights are given or taken.
func (l *loop) askForRights(ctx context.Context) {
	const often = 30 * time.Second
	if time.Since(l.asked) < often {
		return
	}
	may, err := l.services.Permitted(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.log.Warn("cannot ask for the controller's rights", "error", err)
		}
		return
	}
	l.asked, l.feedback.NoServices = time.Now(), !may
}

// report is what the nodes say of what is published now.
func (l *loop) report(live []publication.Node) []config.Report {
	published, refused := l.publisher.state()
	l.metrics.published.Set(float64(len(published)))
	l.metrics.nodes.Set(float64(len(live)))
	return report(live, published, refused, l.translation.Parts)
}

// list gathers all objects as they are now.
func (l *loop) list() (translate.Resources, map[translate.Key]client.Object) {
	r := translate.Resources{}
	withStatus := map[translate.Key]client.Object{}
	for _, k := range l.watch.kinds {
		if k.take == nil {
			continue
		}
		var objects []client.Object
		if store := l.watch.store(k.name); store != nil {
			for _, o := range store.List() {
				objects = append(objects, o.(client.Object))
			}
		}
		l.metrics.objects.WithLabelValues(k.name).Set(float64(len(objects)))
		if k.crd != "" {
			l.statusWriter.refresh(k.name, objects)
			for _, o := range objects {
				withStatus[translate.Key{Kind: k.name, Namespace: o.GetNamespace(), Name: o.GetName()}] = o
			}
		}
		k.take(&r, objects)
	}
	return r, withStatus
}

// lastGood are Secrets that exist and cannot be read, as they are served. That
// the API server does not answer must not take a certificate away.
func (l *loop) lastGood(unread []types.NamespacedName) (out []*corev1.Secret) {
	for _, n := range unread {
		i, ok := slices.BinarySearchFunc(l.previous.Certificates, n.String(), func(c config.Certificate, name string) int {
			return cmp.Compare(c.Name, name)
		})
		if ok {
			c := &l.previous.Certificates[i]
			out = append(out, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name},
				Data: map[string][]byte{corev1.TLSCertKey: c.Chain, corev1.TLSPrivateKeyKey: c.Key}})
		}
	}
	return out
}

// lastTrusted are ConfigMaps that exist and cannot be read, as they are served.
func (l *loop) lastTrusted(unread []types.NamespacedName) (out []*corev1.ConfigMap) {
	for _, n := range unread {
		i, ok := slices.BinarySearchFunc(l.previous.Authorities, n.String(), func(a config.Authority, name string) int {
			return cmp.Compare(a.Name, name)
		})
		if ok {
			out = append(out, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: n.Namespace, Name: n.Name},
				Data: map[string]string{translate.AuthorityKey: string(l.previous.Authorities[i].Bundle)}})
		}
	}
	return out
}

// tell logs the problems that are new, and those that are gone.
func (l *loop) tell() {
	now := map[string]bool{}
	for i := range l.statuses {
		s := &l.statuses[i]
		for _, p := range s.Problems() {
			now[p] = true
		}
		for _, w := range s.Warnings {
			now[s.Key().String()+": "+w] = true
		}
	}
	for p := range now {
		if !l.problems[p] {
			l.log.Debug("problem", "problem", p)
		}
	}
	for p := range l.problems {
		if !now[p] {
			l.log.Debug("problem is gone", "problem", p)
		}
	}
	l.problems = now
	l.metrics.problems.Set(float64(len(now)))
}
