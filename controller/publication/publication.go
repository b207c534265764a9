// SPDX-License-Identifier: Apache-2.0

// Package publication is what controller and nodes tell each other, through
// objects of the namespace that Sluice itself runs in:
//
//   - one Secret per Gateway, written by the controller: the Gateway's part of
//     the snapshot, with the certificates that it needs, in one piece;
//   - one Lease per node, written by its agent: that it lives, up to which
//     Secret it serves, and what of it fails.
//
// A node serves every Secret up to the resourceVersion in its Lease. Nodes
// watch one namespace, the API server sends the changes of one in their order,
// and resourceVersions compare as numbers (Kubernetes 1.35, KEP-5504), so one
// number is all that a node has to say, however many Gateways there are.
package publication

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

const (
	// ComponentLabel tells the objects of this package from others: its value is
	// PartComponent or NodeComponent.
	ComponentLabel = "sluice.dev/component"
	PartComponent  = "gateway-part"
	NodeComponent  = "node"

	// SecretType is the type of the Secrets.
	SecretType corev1.SecretType = "sluice.dev/gateway-part"

	gatewayAnnotation = "sluice.dev/gateway"
	hashAnnotation    = "sluice.dev/hash"

	snapshotKey = "snapshot.json.gz"
	keysKey     = "keys.json"
)

// maxSecret is the most that the data of a Secret may hold, in bytes
// (k8s.io/api/core/v1 MaxSecretSize).
const maxSecret = corev1.MaxSecretSize

// SecretName is the name of the Secret of a Gateway ("namespace/name").
func SecretName(gateway string) string {
	sum := sha256.Sum256([]byte(gateway))
	return "gateway-" + hex.EncodeToString(sum[:10])
}

// Encode makes the Secret that publishes the part of a Gateway
// ("namespace/name") into a namespace. Equal parts give equal Secrets.
//
// It fails when the part is more than a Secret can hold.
func Encode(namespace, gateway string, part *config.Snapshot) (*corev1.Secret, error) {
	text, err := json.Marshal(part)
	if err != nil {
		return nil, fmt.Errorf("encode Gateway %s: %w", gateway, err)
	}
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // the level is valid
	_, _ = w.Write(text)                                       // a Buffer takes everything
	_ = w.Close()
	keys := map[string][]byte{}
	for _, c := range part.Certificates {
		keys[c.Name] = []byte(c.Key)
	}
	secrets, err := json.Marshal(keys)
	if err != nil {
		return nil, fmt.Errorf("encode the keys of Gateway %s: %w", gateway, err)
	}
	if size := packed.Len() + len(secrets); size > maxSecret {
		return nil, fmt.Errorf("the part of Gateway %s needs %d bytes, %d is the most that a Secret holds; split it into several Gateways", gateway, size, maxSecret)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: SecretName(gateway),
			Labels:      map[string]string{ComponentLabel: PartComponent},
			Annotations: map[string]string{gatewayAnnotation: gateway, hashAnnotation: part.Hash()}},
		Type: SecretType,
		Data: map[string][]byte{snapshotKey: packed.Bytes(), keysKey: secrets},
	}, nil
}

// GatewayOf returns the Gateway ("namespace/name") whose part a Secret holds,
// "" when it holds none.
func GatewayOf(s *corev1.Secret) string {
	if s.Labels[ComponentLabel] != PartComponent {
		return ""
	}
	return s.Annotations[gatewayAnnotation]
}

// HashOf returns the config.Snapshot.Hash of the part in a Secret of Encode.
func HashOf(s *corev1.Secret) string { return s.Annotations[hashAnnotation] }

// maxSnapshot bounds what Decode unpacks, in bytes: a Secret of 1 MiB could
// hold a gigabyte of zeros.
const maxSnapshot = 64 << 20

// Decode returns the part that a Secret of Encode holds. It is checked: valid,
// of one Gateway, and with the hash that it was published with. Errors tell
// nothing of keys.
func Decode(s *corev1.Secret) (*config.Snapshot, error) {
	part, err := decode(s)
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s of Gateway %s: %w", s.Namespace, s.Name, GatewayOf(s), err)
	}
	return part, nil
}

func decode(s *corev1.Secret) (*config.Snapshot, error) {
	r, err := gzip.NewReader(bytes.NewReader(s.Data[snapshotKey]))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	d := json.NewDecoder(io.LimitReader(r, maxSnapshot))
	d.DisallowUnknownFields() // a newer controller may mean something that this node would not do
	part := &config.Snapshot{}
	if err := d.Decode(part); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	var keys map[string][]byte
	if json.Unmarshal(s.Data[keysKey], &keys) != nil {
		return nil, fmt.Errorf("its keys cannot be read")
	}
	for i := range part.Certificates {
		part.Certificates[i].Key = config.Secret(keys[part.Certificates[i].Name])
	}
	if err := part.Validate(); err != nil {
		return nil, err
	}
	for _, gateway := range slices.Sorted(maps.Keys(part.Parts())) {
		if gateway != GatewayOf(s) {
			return nil, fmt.Errorf("it has listeners of Gateway %s", gateway)
		}
	}
	if part.Hash() != HashOf(s) {
		return nil, fmt.Errorf("its hash is not the one that it was published with")
	}
	return part, nil
}

// Version is the resourceVersion of an object as a number, 0 when there is none.
func Version(o metav1.Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}
