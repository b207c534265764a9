// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// withhold takes out of what is published of a Gateway what its part has no more,
// where the part itself is too large: who lets theirs grow may not keep what a
// ReferenceGrant allowed once. Nothing is added. Where even that is too large, the
// Gateway is closed.
func (p *publisher) withhold(ctx context.Context, gateway string, part *config.Snapshot, why error) error {
	have := &corev1.Secret{}
	err := p.reader.Get(ctx, client.ObjectKey{Namespace: p.namespace, Name: publication.SecretName(gateway)}, have)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return fmt.Errorf("read what is published of Gateway %s: %w", gateway, err)
	case err != nil || publication.GatewayOf(have) != gateway:
		return nil // there is nothing
	}
	published, err := publication.Decode(have)
	if err != nil {
		published = part // no node can read it; what they serve may be anything
	}
	kept := published.Kept(part)
	secret, err := publication.Encode(p.namespace, gateway, kept)
	if err != nil {
		kept = published.Closed(part, why.Error())
		if secret, err = publication.Encode(p.namespace, gateway, kept); err != nil {
			return err
		}
	}
	if publication.HashOf(secret) == publication.HashOf(have) {
		return nil
	}
	if err := p.write(ctx, secret, have); err != nil {
		return fmt.Errorf("take out of Secret %s/%s what Gateway %s has no more: %w", p.namespace, secret.Name, gateway, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(gateway, newPublished(secret, kept))
	return nil
}
