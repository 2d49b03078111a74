-- a revision on its way to the edges of an environment: those whose hash is at most threshold have it
create table rollout (
  environment integer primary key references environment, revision integer not null references revision, stages text not null, stage integer not null,
  threshold integer not null, state text not null, reason text not null, every integer not null, since integer not null,
  actor text not null, message text not null, baseline text not null
) strict;

create table guard (environment integer primary key references environment, bounds text not null) strict;
