// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// Look translates what a cluster holds now, once, with the rights of config, and
// writes nothing. namespace is Sluice's own. Secrets, ConfigMaps and Leases that
// the caller may not read are taken to be as they should.
func Look(ctx context.Context, config *rest.Config, namespace string) (*translate.Translation, error) {
	s, err := see(ctx, config, namespace)
	return s.translation, err
}

// Statuses returns what a cluster holds and the statuses of what is ours in it, as
// they are stored, with the warnings of a translation. Rights are as with Look.
func Statuses(ctx context.Context, config *rest.Config, namespace string) (translate.Resources, []translate.Status, error) {
	seen, err := see(ctx, config, namespace)
	if err != nil {
		return seen.resources, nil, err
	}
	all := seen.translation.Statuses(translate.Feedback{})
	for i := range all {
		s := &all[i]
		switch have, _ := statusOf(seen.objects[s.Key()], s); have := have.(type) {
		case *gwv1.GatewayClassStatus:
			s.GatewayClass = have
		case *gwv1.GatewayStatus:
			s.Gateway = have
		case *gwv1.ListenerSetStatus:
			s.ListenerSet = have
		case *gwv1.RouteStatus:
			s.Route = have
		case *gwv1.PolicyStatus:
			s.Policy = have
		}
	}
	return seen.resources, all, nil
}

// sight is what a cluster holds, read once.
type sight struct {
	resources   translate.Resources
	objects     map[translate.Key]client.Object // of resources, without Secrets and ConfigMaps
	translation *translate.Translation
}

func see(ctx context.Context, config *rest.Config, namespace string) (seen sight, err error) {
	scheme := newScheme()
	r := translate.Resources{Hidden: map[translate.Key]bool{}}
	seen.objects = map[translate.Key]client.Object{}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return seen, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	for _, k := range kinds() {
		if k.take == nil {
			continue
		}
		objects, err := listAny(ctx, c, scheme, k.versions)
		if err != nil {
			return seen, fmt.Errorf("list objects of kind %s: %w", k.name, err)
		}
		for _, o := range objects {
			seen.objects[translate.Key{Kind: k.name, Namespace: o.GetNamespace(), Name: o.GetName()}] = o
		}
		k.take(&r, objects)
	}
	var errs []error
	get := func(kind string, names map[types.NamespacedName]bool, o client.Object, found func()) {
		for n := range names {
			err := c.Get(ctx, n, o)
			switch {
			case err == nil:
				found()
			case apierrors.IsForbidden(err):
				r.Hidden[translate.Key{Kind: kind, Namespace: n.Namespace, Name: n.Name}] = true
			case !apierrors.IsNotFound(err):
				errs = append(errs, fmt.Errorf("read %s %s: %w", kind, n, err))
			}
		}
	}
	var secret corev1.Secret
	get(secretKind, referredSecrets(&r), &secret, func() { r.Secrets = append(r.Secrets, secret.DeepCopy()) })
	var configMap corev1.ConfigMap
	get(configMapKind, referredConfigMaps(&r), &configMap, func() { r.ConfigMaps = append(r.ConfigMaps, configMap.DeepCopy()) })

	var leases coordinationv1.LeaseList
	var nodes []publication.Node
	if err := c.List(ctx, &leases, client.InNamespace(namespace)); err != nil && !apierrors.IsForbidden(err) {
		errs = append(errs, fmt.Errorf("list the reports of nodes: %w", err))
	}
	for i := range leases.Items {
		if n, err := publication.DecodeNode(&leases.Items[i]); err == nil {
			nodes = append(nodes, n)
		}
	}
	at := addresses(nodes)
	seen.resources = r
	seen.translation = translate.Translate(r, translate.Options{ControllerName: ControllerName, Now: time.Now().Truncate(time.Second), ByNode: true,
		NodeAddresses: slices.SortedFunc(maps.Keys(at), netip.Addr.Compare), NodeNames: at})
	return seen, errors.Join(errs...)
}

// listAny lists the objects of a kind in the first of its versions that the
// cluster has; none where it has no such kind.
func listAny(ctx context.Context, c client.Client, scheme *runtime.Scheme, versions []client.Object) ([]client.Object, error) {
	for _, version := range versions {
		gvk, err := apiutil.GVKForObject(version, scheme)
		if err != nil {
			return nil, err
		}
		gvk.Kind += "List"
		made, err := scheme.New(gvk)
		if err != nil {
			return nil, err
		}
		list := made.(client.ObjectList)
		if err := c.List(ctx, list); meta.IsNoMatchError(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return nil, err
		}
		var out []client.Object
		for _, o := range items {
			kept, err := slim(o)
			if err != nil {
				return nil, err
			}
			out = append(out, kept.(client.Object))
		}
		return out, nil
	}
	return nil, nil
}
