// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// concurrency bounds the requests that are on their way at once.
const concurrency = 16

// published is a Secret as the publisher wrote it, or found it.
type published struct {
	secret    string
	version   uint64
	uid       types.UID
	hash      string
	listeners []string
}

// refusal is why a part could not be published.
type refusal struct {
	hash string // of the part
	text string
	// lasting means that it is of no use to try again with the same part.
	lasting bool
}

// publisher keeps the Secrets of Sluice's namespace in line with the parts of
// a snapshot. They have no owner: with one, whoever deletes the controller's
// Deployment would end every Gateway.
type publisher struct {
	namespace string
	client    client.Client
	reader    client.Reader // asks the API server
	log       *slog.Logger

	mu        sync.Mutex
	published map[string]*published // by Gateway
	gateways  map[string]string     // by name of the Secret
	refused   map[string]refusal    // by Gateway
}

// load finds out what is published, and returns it in one piece.
func (p *publisher) load(ctx context.Context) (*config.Snapshot, error) {
	type found struct {
		version uint64
		part    *config.Snapshot
	}
	var all []found
	have := map[string]*published{}
	list := &corev1.SecretList{}
	for {
		err := p.reader.List(ctx, list, client.InNamespace(p.namespace), client.Limit(100), client.Continue(list.Continue),
			client.MatchingLabels{publication.ComponentLabel: publication.PartComponent})
		if err != nil {
			return nil, fmt.Errorf("list what is published: %w", err)
		}
		for i := range list.Items {
			s := &list.Items[i]
			part, err := publication.Decode(s)
			gateway := publication.GatewayOf(s)
			if err != nil || s.Name != publication.SecretName(gateway) {
				p.log.Warn("published Secret is not ours as it is; it will be written again or deleted", "secret", s.Name, "error", err)
				continue
			}
			all = append(all, found{publication.Version(s), part})
			have[gateway] = newPublished(s, part)
		}
		if list.Continue == "" {
			break
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(b.version, a.version) })
	var parts []*config.Snapshot
	for _, f := range all {
		parts = append(parts, f.part)
	}
	joined, _ := config.Join(parts) // what is left out has certificates all the same
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published, p.gateways, p.refused = map[string]*published{}, map[string]string{}, map[string]refusal{}
	for gateway, o := range have {
		p.keep(gateway, o)
	}
	return joined, nil
}

func newPublished(s *corev1.Secret, part *config.Snapshot) *published {
	o := &published{secret: s.Name, version: publication.Version(s), uid: s.UID, hash: publication.HashOf(s)}
	for i := range part.Listeners {
		o.listeners = append(o.listeners, part.Listeners[i].Name)
	}
	return o
}

// keep remembers what is published. The caller holds mu.
func (p *publisher) keep(gateway string, o *published) {
	p.published[gateway], p.gateways[o.secret] = o, gateway
	delete(p.refused, gateway)
}

// observe takes note of a Secret of Sluice's namespace, nil for one that is
// gone. It tells whether somebody else changed what is published, or may have
// made room for it.
func (p *publisher) observe(old, now client.Object) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now != nil {
		o := p.published[p.gateways[now.GetName()]]
		return o == nil || publication.Version(now) > o.version
	}
	gateway := p.gateways[old.GetName()]
	o := p.published[gateway]
	if o != nil && o.uid == old.GetUID() {
		delete(p.published, gateway)
		delete(p.gateways, old.GetName())
		return true
	}
	return o == nil // one that was in the way, it may be
}

// isOwn tells whether a version of a Secret is what we published.
func (p *publisher) isOwn(k translate.Key, version string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.published[p.gateways[k.Name]]
	return k.Kind == secretKind && k.Namespace == p.namespace && o != nil && strconv.FormatUint(o.version, 10) == version
}

// state returns what is published and what is refused, with the reason.
func (p *publisher) state() (map[string]*published, map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	refused := map[string]string{}
	for gateway, r := range p.refused {
		refused[gateway] = r.text
	}
	return maps.Clone(p.published), refused
}

// publish writes the parts that are not published as they are, and deletes the
// Secrets of Gateways that have none. present are the Secrets that there are,
// as far as the watch has told. The error is about what is worth another try.
func (p *publisher) publish(ctx context.Context, parts map[string]translate.Part, present toolscache.Store) error {
	var mu sync.Mutex
	var problems []error
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	do := func(f func() error) {
		group.Go(func() error {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
			return nil
		})
	}
	keep := make(map[string]bool, len(parts))
	for _, gateway := range slices.Sorted(maps.Keys(parts)) {
		keep[publication.SecretName(gateway)] = true
		do(func() error { return p.put(ctx, gateway, parts[gateway], present) })
	}
	for _, o := range present.List() {
		m := o.(*metav1.PartialObjectMetadata)
		if m.Namespace == p.namespace && m.Labels[publication.ComponentLabel] == publication.PartComponent && !keep[m.Name] {
			do(func() error { return p.remove(ctx, m) })
		}
	}
	_ = group.Wait() // the functions return no errors
	p.mu.Lock()
	defer p.mu.Unlock()
	for gateway, o := range p.published {
		if parts[gateway].Snapshot == nil {
			delete(p.published, gateway)
			delete(p.gateways, o.secret)
		}
	}
	maps.DeleteFunc(p.refused, func(gateway string, _ refusal) bool { return parts[gateway].Snapshot == nil })
	return errors.Join(problems...)
}

// put publishes a part unless it is published already.
func (p *publisher) put(ctx context.Context, gateway string, part translate.Part, present toolscache.Store) error {
	hash := part.Hash
	p.mu.Lock()
	have, refused := p.published[gateway], p.refused[gateway]
	p.mu.Unlock()
	if refused.lasting && refused.hash == hash {
		return nil
	}
	base := &corev1.Secret{} // to be replaced, none when it has no resourceVersion
	if have != nil {
		base.UID, base.ResourceVersion = have.uid, strconv.FormatUint(have.version, 10)
		base.Labels = map[string]string{publication.ComponentLabel: publication.PartComponent}
	}
	o, exists, err := present.GetByKey(p.namespace + "/" + publication.SecretName(gateway))
	if err == nil && exists {
		// The store may be behind what was just written. When it is ahead,
		// somebody else wrote.
		if m := o.(*metav1.PartialObjectMetadata); publication.Version(m) > publication.Version(base) {
			known := base.UID
			base.ObjectMeta = *m.ObjectMeta.DeepCopy()
			if m.UID == known {
				base.Labels = map[string]string{publication.ComponentLabel: publication.PartComponent} // whoever took it off
			}
			have = nil
		}
	}
	if have != nil && have.hash == hash {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.refused, gateway) // what was refused is no longer wanted
		return nil
	}
	secret, err := publication.Encode(p.namespace, gateway, part.Snapshot)
	if err != nil {
		unfinished := p.withhold(ctx, gateway, part.Snapshot, err)
		p.refuse(gateway, refusal{hash, err.Error(), unfinished == nil})
		return unfinished
	}
	if err := p.write(ctx, secret, base); err != nil {
		err = fmt.Errorf("publish Gateway %s in Secret %s/%s: %w", gateway, p.namespace, secret.Name, err)
		if foreign := (foreignError{}); errors.As(err, &foreign) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err) {
			p.refuse(gateway, refusal{hash, err.Error(), false})
		}
		return err
	}
	p.log.Debug("published", "gateway", gateway, "secret", secret.Name, "hash", hash[:12])
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(gateway, newPublished(secret, part.Snapshot))
	return nil
}

func (p *publisher) refuse(gateway string, r refusal) {
	p.log.Error("cannot publish; what was published stays", "gateway", gateway, "error", r.text)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused[gateway] = r
}

// foreignError says that a Secret has the name of one of ours and is not.
type foreignError struct{}

func (foreignError) Error() string {
	return "there is one that is not Sluice's (it has no label " + publication.ComponentLabel + "); delete or rename it"
}

// write creates a Secret, or replaces base, and then what there is instead of
// it. It touches nothing that has not our label. secret becomes what the API
// server has then.
func (p *publisher) write(ctx context.Context, secret, base *corev1.Secret) error {
	for range 3 {
		var err error
		o := secret.DeepCopy()
		if base.ResourceVersion == "" {
			err = p.client.Create(ctx, o)
		} else if base.Labels[publication.ComponentLabel] != publication.PartComponent {
			return foreignError{}
		} else {
			o.ResourceVersion, o.UID = base.ResourceVersion, base.UID
			err = p.client.Update(ctx, o)
		}
		switch {
		case err == nil:
			*secret = *o
			return nil
		case apierrors.IsInvalid(err) && base.ResourceVersion != "":
			// Somebody made it immutable, or changed its type.
			if err := p.client.Delete(ctx, base, client.Preconditions{UID: &base.UID}); client.IgnoreNotFound(err) != nil {
				return err
			}
			base = &corev1.Secret{}
		case apierrors.IsNotFound(err) && base.ResourceVersion != "":
			base = &corev1.Secret{}
		case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
			base = &corev1.Secret{}
			if err := p.reader.Get(ctx, client.ObjectKeyFromObject(secret), base); client.IgnoreNotFound(err) != nil {
				return err
			}
		default:
			return err
		}
	}
	return errors.New("others change it all the time")
}

// remove deletes a Secret of ours.
func (p *publisher) remove(ctx context.Context, m *metav1.PartialObjectMetadata) error {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
	err := p.client.Delete(ctx, s, client.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Secret %s/%s of a Gateway that is gone: %w", m.Namespace, m.Name, err)
	}
	p.log.Debug("deleted", "secret", m.Name)
	return nil
}
