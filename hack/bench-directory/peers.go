package main

import (
	"bytes"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"gatehouse/directory"
)

// What is measured against is what one would write first: maps, and a file of sorted keys. Both answer "may this user see this resource" as
// Snapshot does: upward from the user through groups, then at the resource.

type userset struct {
	object   directory.Ref
	relation string
}

type direct struct {
	object   directory.Ref
	relation string
	subject  userset
}

type maps struct {
	objects   map[directory.Ref]directory.Object
	relations map[direct]struct{}
	upward    map[userset][]userset // the usersets that a subject is in
}

func newMaps(w *world) *maps {
	m := &maps{map[directory.Ref]directory.Object{}, map[direct]struct{}{}, map[userset][]userset{}}
	for o := range w.objects() {
		m.objects[o.Ref] = o
	}
	for r := range w.relations() {
		subject := userset{r.Subject, r.SubjectRelation}
		m.relations[direct{r.Object, r.Relation, subject}] = struct{}{}
		m.upward[subject] = append(m.upward[subject], userset{r.Object, r.Relation})
	}
	return m
}

func (m *maps) check(q directory.Question) bool {
	subject := userset{q.Subject, ""}
	if _, ok := m.relations[direct{q.Object, q.Relation, subject}]; ok {
		return true
	}
	seen := map[userset]bool{subject: true}
	for queue := []userset{subject}; len(queue) > 0; queue = queue[1:] {
		for _, up := range m.upward[queue[0]] {
			if up.relation != "member" || seen[up] {
				continue
			}
			seen[up] = true
			if _, ok := m.relations[direct{q.Object, q.Relation, up}]; ok {
				return true
			}
			queue = append(queue, up)
		}
	}
	return false
}

type boltDB struct {
	db *bolt.DB
}

var forwardBucket, reverseBucket = []byte("forward"), []byte("reverse")

func boltKey(dst []byte, parts ...string) []byte {
	dst = dst[:0]
	for _, p := range parts {
		dst = append(append(dst, p...), 0)
	}
	return dst
}

func newBolt(w *world, dir string) (*boltDB, error) {
	db, err := bolt.Open(filepath.Join(dir, "bolt.db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	var forward, reverse [][]byte
	for r := range w.relations() {
		forward = append(forward, boltKey(nil, r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID, r.SubjectRelation))
		reverse = append(reverse, boltKey(nil, r.Subject.Type, r.Subject.ID, r.SubjectRelation, r.Object.Type, r.Object.ID, r.Relation))
	}
	for name, keys := range map[string][][]byte{string(forwardBucket): forward, string(reverseBucket): reverse} {
		slices.SortFunc(keys, bytes.Compare)
		for part := range slices.Chunk(keys, 200000) {
			err := db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				b.FillPercent = 0.95
				for _, k := range part {
					if err := b.Put(k, []byte{1}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return &boltDB{db}, nil
}

func (b *boltDB) check(q directory.Question) (yes bool) {
	_ = b.db.View(func(tx *bolt.Tx) error {
		forward, reverse := tx.Bucket(forwardBucket), tx.Bucket(reverseBucket)
		key := boltKey(nil, q.Object.Type, q.Object.ID, q.Relation, q.Subject.Type, q.Subject.ID, "")
		if yes = forward.Get(key) != nil; yes {
			return nil
		}
		type node struct{ typ, id, relation string }
		first := node{q.Subject.Type, q.Subject.ID, ""}
		seen := map[node]bool{first: true}
		c := reverse.Cursor()
		for queue := []node{first}; len(queue) > 0 && !yes; queue = queue[1:] {
			prefix := boltKey(nil, queue[0].typ, queue[0].id, queue[0].relation)
			for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
				parts := bytes.SplitN(k[len(prefix):], []byte{0}, 4)
				up := node{string(parts[0]), string(parts[1]), string(parts[2])}
				if up.relation != "member" || seen[up] {
					continue
				}
				seen[up] = true
				key = boltKey(key, q.Object.Type, q.Object.ID, q.Relation, up.typ, up.id, up.relation)
				if yes = forward.Get(key) != nil; yes {
					return nil
				}
				queue = append(queue, up)
			}
		}
		return nil
	})
	return yes
}

// change puts one relation in and takes it out again: two changes.
func (b *boltDB) change(r directory.Relation, put bool) error {
	return b.db.Update(func(tx *bolt.Tx) error {
		forward := boltKey(nil, r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID, r.SubjectRelation)
		reverse := boltKey(nil, r.Subject.Type, r.Subject.ID, r.SubjectRelation, r.Object.Type, r.Object.ID, r.Relation)
		if !put {
			if err := tx.Bucket(forwardBucket).Delete(forward); err != nil {
				return err
			}
			return tx.Bucket(reverseBucket).Delete(reverse)
		}
		if err := tx.Bucket(forwardBucket).Put(forward, []byte{1}); err != nil {
			return err
		}
		return tx.Bucket(reverseBucket).Put(reverse, []byte{1})
	})
}
