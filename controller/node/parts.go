// SPDX-License-Identifier: Apache-2.0

package node

import (
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// parts reads the published Secrets, each of them once.
type parts struct {
	log     *slog.Logger
	decoded map[string]decoded // by name of the Secret
}

type decoded struct {
	version uint64
	part    *config.Snapshot // the last good one, nil for none
	err     error            // of this version
}

type publishedPart struct {
	version uint64
	part    *config.Snapshot
}

// read returns the parts, the latest first. A Secret that cannot be read counts
// as it was before; stale names its Gateway, with the reason.
func (p *parts) read(secrets []*corev1.Secret) (out []*config.Snapshot, stale map[string]string) {
	present := make(map[string]bool, len(secrets))
	var all []publishedPart
	for _, s := range secrets {
		present[s.Name] = true
		d, version := p.decoded[s.Name], publication.Version(s)
		if d.version != version || d.part == nil && d.err == nil {
			part, err := publication.Decode(s)
			if err == nil {
				d.part = part
			} else {
				p.log.Error("cannot read what is published; what was served stays", "error", err)
			}
			d.version, d.err = version, err
			p.decoded[s.Name] = d
		}
		if d.err != nil {
			if stale == nil {
				stale = map[string]string{}
			}
			stale[publication.GatewayOf(s)] = d.err.Error()
		}
		if d.part != nil {
			all = append(all, publishedPart{version, d.part})
		}
	}
	for name := range p.decoded {
		if !present[name] {
			delete(p.decoded, name)
		}
	}
	slices.SortFunc(all, newest)
	for _, a := range all {
		out = append(out, a.part)
	}
	return out, stale
}
