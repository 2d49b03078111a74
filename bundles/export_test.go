package bundles

import "gatehouse/bundles/tarball"

// UnpackFrom lets tests pass archives byte by byte.
var UnpackFrom = tarball.Unpack

// Delivery, Deliver and Fetcher let tests replace a remote source.
type (
	Delivery = delivery
	Deliver  = deliver
	Fetcher  = fetcher
)

// Delivered returns a delivery of these files.
func Delivered(files map[string]string, outcome func(error)) Delivery {
	d := delivery{files: map[string][]byte{}, from: "a test", outcome: outcome}
	for name, content := range files {
		d.files[name] = []byte(content)
	}
	return d
}

// Failed returns a failed delivery.
func Failed(err error) Delivery { return delivery{err: err} }

// SetFetcher replaces a source's path by a fetcher, as New does for sources without a path.
func (m *Manager) SetFetcher(name string, f Fetcher) {
	for _, s := range m.sources {
		if s.Name == name {
			s.fetch = f
		}
	}
}

// LoadKept reads a source's bundle from a file on disk.
func LoadKept(dir, name, source string, limit int64) ([][]byte, error) {
	k, err := (&store{dir: dir, name: name, source: source, limit: limit}).load()
	return k.parts, err
}
