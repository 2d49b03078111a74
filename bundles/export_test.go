package bundles

import "gatehouse/bundles/tarball"

// UnpackFrom lets the tests hand archives over byte by byte.
var UnpackFrom = tarball.Unpack

// Delivery, Deliver and Fetcher let the tests stand in for a remote source.
type (
	Delivery = delivery
	Deliver  = deliver
	Fetcher  = fetcher
)

// Delivered is a delivery of these files.
func Delivered(files map[string]string, outcome func(error)) Delivery {
	d := delivery{files: map[string][]byte{}, from: "a test", outcome: outcome}
	for name, content := range files {
		d.files[name] = []byte(content)
	}
	return d
}

// Failed is a delivery that could not be had.
func Failed(err error) Delivery { return delivery{err: err} }

// SetFetcher puts a fetcher in the place of a source's path, as New does for sources that have none.
func (m *Manager) SetFetcher(name string, f Fetcher) {
	for _, s := range m.sources {
		if s.Name == name {
			s.fetch = f
		}
	}
}

// LoadKept reads a file as the bundle that was kept of a source.
func LoadKept(dir, name, source string, limit int64) ([][]byte, error) {
	k, err := (&store{dir: dir, name: name, source: source, limit: limit}).load()
	return k.parts, err
}
