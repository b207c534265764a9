// SPDX-License-Identifier: Apache-2.0

package publication

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	leasePrefix      = "sluice-node-"
	reportAnnotation = "sluice.dev/report"
)

// LeaseName is the name of the Lease of a node.
func LeaseName(node string) string { return leasePrefix + node }

// Node is what an agent tells of its node.
type Node struct {
	// Name is that of the Node object.
	Name string `json:"-"`
	// Holder identifies the process, so that a restart shows.
	Holder string `json:"-"`
	// Renewed is when the agent wrote it, by its own clock: to be watched for
	// change, not compared with another clock. Lasts is how long it holds.
	Renewed time.Time     `json:"-"`
	Lasts   time.Duration `json:"-"`

	// Version is the program's.
	Version string `json:"version,omitempty"`
	// Serves is the resourceVersion up to which the node serves the Secrets.
	Serves uint64 `json:"serves"`
	// Failures are why listeners of the served Secrets are not served, by name.
	Failures map[string]string `json:"failures,omitempty"`
	// Stale are the Gateways whose Secret the node cannot read, with the reason;
	// it serves their last good part, if any.
	Stale map[string]string `json:"stale,omitempty"`
	// Empty are the backends that have had no endpoint for this node for some
	// time, by name, with the reason.
	Empty map[string]string `json:"empty,omitempty"`
	// Cut says that Failures and Empty are not all: there are more than fit.
	Cut bool `json:"cut,omitempty"`
	// Addresses are those by which others reach the node.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Held are the addresses of Gateways that this node holds. Unheld are those
	// that it should hold and cannot, and those of Held of which neighbors are
	// not told, with the reason.
	Held   []netip.Addr      `json:"held,omitempty"`
	Unheld map[string]string `json:"unheld,omitempty"`
	// Draining says that the agent is ending.
	Draining bool `json:"draining,omitempty"`
}

// maxReport is the longest report written, in bytes; annotations of an object
// may have 256 KiB together.
const maxReport = 128 << 10

// EncodeNode makes the Lease that tells of a node. Where there are more
// failures and empty backends than fit, it keeps those that do.
func EncodeNode(namespace string, n Node) (*coordinationv1.Lease, error) {
	text, err := json.Marshal(n)
	for err == nil && len(text) > maxReport && len(n.Failures)+len(n.Empty) > 0 {
		n.Failures, n.Empty, n.Cut = half(n.Failures), half(n.Empty), true
		text, err = json.Marshal(n)
	}
	if err != nil {
		return nil, fmt.Errorf("encode the report of node %s: %w", n.Name, err)
	}
	seconds := int32(n.Lasts / time.Second)
	renewed := metav1.NewMicroTime(n.Renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: LeaseName(n.Name),
			Labels:      map[string]string{ComponentLabel: NodeComponent},
			Annotations: map[string]string{reportAnnotation: string(text)}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.Holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed},
	}, nil
}

// half keeps one half of m, always the same.
func half(m map[string]string) map[string]string {
	kept := make(map[string]string, len(m)/2)
	for _, k := range slices.Sorted(maps.Keys(m))[:len(m)/2] {
		kept[k] = m[k]
	}
	return kept
}

// DecodeNode reads a Lease of EncodeNode.
func DecodeNode(l *coordinationv1.Lease) (Node, error) {
	n := Node{}
	if err := json.Unmarshal([]byte(l.Annotations[reportAnnotation]), &n); err != nil {
		return Node{}, fmt.Errorf("report of the node in Lease %s/%s: %w", l.Namespace, l.Name, err)
	}
	if len(l.Name) > len(leasePrefix) {
		n.Name = l.Name[len(leasePrefix):]
	}
	if l.Spec.HolderIdentity != nil {
		n.Holder = *l.Spec.HolderIdentity
	}
	if l.Spec.LeaseDurationSeconds != nil {
		n.Lasts = time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
	}
	if l.Spec.RenewTime != nil {
		n.Renewed = l.Spec.RenewTime.Time
	}
	return n, nil
}
