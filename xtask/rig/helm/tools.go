//go:build tools

// Package helm pins what the rig builds from Helm.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
