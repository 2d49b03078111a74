package directory

import "fmt"

// OrphanError is a manifest that does not allow what the directory holds.
type OrphanError struct {
	Objects   []Ref      // the first of them
	Relations []Relation // the first of them
	Total     int        // how many objects and relations there are
}

func (e *OrphanError) Error() string {
	return fmt.Sprintf("the manifest would orphan %d objects and relations", e.Total)
}

// SetManifest is the same data under another manifest.
func (s *Snapshot) SetManifest(m *Manifest, force bool) (*Snapshot, error) {
	out := *s
	out.revision++
	out.manifest, out.symbols = m, s.symbols.with(m)
	out.digest.sub(digestManifest(s.manifest))
	out.digest.add(digestManifest(m))
	out.fit()
	return &out, nil
}
