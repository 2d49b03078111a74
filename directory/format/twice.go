package format

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"gatehouse/directory"
)

// Duplicates are reported with the line of the first. Lines are not kept in memory: the files are read again when
// there are duplicates.

// twice is a duplicate object. problem is the index of its problem.
type twice struct {
	ref     directory.Ref
	problem int
}

// sameObjects finds the first occurrence of duplicate objects.
func (l *loader) sameObjects(ctx context.Context) error {
	want := map[directory.Ref][]int{}
	for _, t := range l.twice {
		if t.problem < len(l.problems) {
			want[t.ref] = append(want[t.ref], t.problem)
		}
	}
	if len(want) == 0 {
		return nil
	}
	err := l.pass(ctx, kindObject, func(part *batch) error {
		for i := range part.objects {
			if problems, ok := want[part.objects[i].Ref]; ok {
				for _, p := range problems {
					l.problems[p].Text = fmt.Sprintf("object %s is there twice: the first is in %s:%d; remove one of them",
						clip(part.objects[i].String()), part.file, part.objectLines[i])
				}
				delete(want, part.objects[i].Ref)
			}
		}
		if len(want) == 0 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// place is a line of a file.
type place struct {
	file string
	line int
}

// sameRelations finds duplicate relations.
func (l *loader) sameRelations(ctx context.Context) error {
	seed := maphash.MakeSeed()
	var all []uint64
	if err := l.pass(ctx, kindRelation, func(part *batch) error {
		for i := range part.relations {
			all = append(all, hashRelation(seed, &part.relations[i]))
		}
		return nil
	}); err != nil {
		return err
	}
	slices.Sort(all)
	again := map[uint64]bool{}
	for i := 1; i < len(all) && len(again) < 1<<16; i++ {
		if all[i] == all[i-1] {
			again[all[i]] = true
		}
	}
	all = nil
	first := map[directory.Relation]place{}
	defer l.sortProblems()
	return l.pass(ctx, kindRelation, func(part *batch) error {
		for i, r := range part.relations {
			if !again[hashRelation(seed, &r)] {
				continue
			}
			key := r
			key.Expires = time.Time{}
			before, ok := first[key]
			if !ok {
				first[key] = place{part.file, part.relationLines[i]}
				continue
			}
			if err := l.addProblem(part.file, part.relationLines[i], fmt.Sprintf("relation %s is there twice: the first is in %s:%d; remove one of them",
				clip(r.String()), before.file, before.line)); err != nil {
				return err
			}
		}
		return nil
	})
}

// sortProblems moves problems found late to their place. Objects come first, as their file was read first.
func (l *loader) sortProblems() {
	if len(l.twice) > 0 {
		return // they refer to problems by index
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
}

func hashRelation(seed maphash.Seed, r *directory.Relation) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range [...]string{r.Object.Type, r.Object.ID, r.Relation, r.Subject.Type, r.Subject.ID, r.SubjectRelation} {
		h.WriteString(part)
		h.WriteByte(0)
	}
	return h.Sum64()
}
