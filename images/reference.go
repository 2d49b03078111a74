package images

import (
	"fmt"
	"regexp"
	"strings"
)

// A Reference names an image: registry.example.com/policies/app:1.4, or with @sha256:... for one that cannot change. Where
// both are given the digest counts. Without either the tag is latest. Without a registry it names an image of the local
// store alone.
type Reference struct {
	Registry   string // host or host:port; empty for a local name
	Repository string
	Tag        string // empty where Digest is not
	Digest     string // sha256:...
}

var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$`)
	// A DNS name, an IPv4 address or an IPv6 address in brackets, with a port or without.
	registryName = regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$`)
	tagName      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

const maxReference = 512

// ParseReference reads a reference. What stands before the first slash is a registry where it has a dot or a colon in it or
// is localhost, as Docker has it.
func ParseReference(s string) (Reference, error) {
	wrong := func(format string, args ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("image reference %q: "+format+", as in registry.example.com/policies/app:1.4", append([]any{s}, args...)...)
	}
	if len(s) > maxReference {
		return Reference{}, fmt.Errorf("image reference %q...: longer than %d bytes", s[:40], maxReference)
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return wrong("leave out %s://", scheme)
	}
	var r Reference
	rest, digest, pinned := strings.Cut(s, "@")
	if pinned {
		if err := checkDigest(digest); err != nil {
			return wrong("%v", err)
		}
		r.Digest = digest
	}
	if host, path, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		r.Registry, rest = host, path
		if !registryName.MatchString(host) {
			return wrong("%q is no registry", host)
		}
	}
	repository, tag, tagged := strings.Cut(rest, ":")
	switch {
	case !repositoryName.MatchString(repository):
		return wrong("the name %q is not lower-case letters, digits and separators", repository)
	case tagged && !tagName.MatchString(tag):
		return wrong("%q is no tag", tag)
	case !tagged:
		tag = "latest"
	}
	if r.Repository = repository; !pinned {
		r.Tag = tag
	}
	return r, nil
}

// String is the reference in full, as a Store keeps it.
func (r Reference) String() string {
	s := r.Repository
	if r.Registry != "" {
		s = r.Registry + "/" + s
	}
	if r.Digest != "" {
		return s + "@" + r.Digest
	}
	return s + ":" + r.Tag
}

// within is what names the image in its repository.
func (r Reference) within() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// remote refuses a local name where a registry is needed.
func (r Reference) remote() error {
	if r.Registry == "" {
		return fmt.Errorf("image reference %q names no registry: put one in front, as in registry.example.com/%s", r, r)
	}
	return nil
}
