import { StatePersistenceError, call, parsedError } from './error.js';
import type { LiveChange, NativeService, StateTexts } from './native.js';
import type { OrchestratorMode, OrchestratorState } from './types.js';

/** The kinds of objects, the native part's names for them. */
export type Kind = 'conversation' | 'task' | 'agent' | 'project' | 'selfImprovement';

/** The lists of a state, with the kind of their entities and the member that is their key. */
const LISTS = [
  ['conversations', 'conversation', 'id'],
  ['tasks', 'task', 'id'],
  ['agents', 'agent', 'sessionName'],
  ['projects', 'project', 'id'],
] as const;

const KINDS: readonly Kind[] = ['conversation', 'task', 'agent', 'project', 'selfImprovement'];

/** How much is looked at before others get a turn: characters of JSON, and objects. */
const TURN = { characters: 256 * 1024, objects: 500 };

/** An object of the caller's that stands for an entity. */
interface Seen {
  readonly object: object;
  /** Its JSON when it was looked at last. */
  before: string;
  /** Whether that is what the database had, which may have numbers that JavaScript reads as others. */
  isParsed?: boolean;
  /** The entity as the database had it then, where that was found to be the same. */
  stored?: string | undefined;
  /** The entity as the database had it, where that was found to be another one. */
  differs?: string | undefined;
  /** Its JSON when it could not be written. */
  refused?: string | undefined;
}

type Objects = Record<Kind, Map<string, Seen>>;

function none(): Objects {
  return { conversation: new Map(), task: new Map(), agent: new Map(), project: new Map(), selfImprovement: new Map() };
}

/**
 * The objects that a service was given, and those that it gave out as the state: as with the TypeScript service, they are the
 * state, and what is changed in them counts from the next look on. Each stays until its entity is removed or replaced.
 */
export class LiveObjects {
  /** Objects handed over in updates. */
  #given = none();
  /** Objects of the state that was given out. */
  #shown = none();
  /** The state that was given out. */
  #state: OrchestratorState | undefined;
  #shownMode: unknown;
  /** How often everything was taken away: what was being looked at then is left alone. */
  #epoch = 0;
  /** Objects in the lists of the state that could not be written, with their JSON then. */
  #refused = new WeakMap<object, string>();

  /** Notes an object that was handed over, in the place of an earlier one. */
  give(kind: Kind, object: object, text: string): void {
    const id = kind === 'selfImprovement' ? '' : keyOf(kind, object, text);
    if (id === undefined) {
      return;
    }
    const earlier = this.#given[kind].get(id) ?? this.#shown[kind].get(id);
    this.#shown[kind].delete(id);
    this.#given[kind].set(id, { object, before: text });
    this.#show(kind, id, object, earlier?.object);
  }

  /** Forgets the object of an entity that is not there any more. */
  forget(kind: Kind, id: string): void {
    this.#given[kind].delete(id);
    this.#shown[kind].delete(id);
    this.#show(kind, id, undefined);
  }

  /** Takes everything away. */
  take(): LiveObjects {
    const taken = new LiveObjects();
    this.#epoch += 1;
    [taken.#given, taken.#shown, taken.#state, taken.#shownMode] = [this.#given, this.#shown, this.#state, this.#shownMode];
    [this.#given, this.#shown, this.#state, this.#shownMode] = [none(), none(), undefined, undefined];
    return taken;
  }

  /** Takes back what was taken away; objects that were given meanwhile stay. */
  takeBack(taken: LiveObjects): void {
    for (const kind of KINDS) {
      for (const [id, seen] of taken.#given[kind]) {
        if (!this.#given[kind].has(id)) {
          this.#given[kind].set(id, seen);
        }
      }
      if (!this.#state) {
        this.#shown[kind] = taken.#shown[kind];
        continue;
      }
      // Another state was given out meanwhile: who has the objects of the earlier one goes on with them.
      for (const [id, seen] of taken.#shown[kind]) {
        if (!this.#given[kind].has(id)) {
          this.#given[kind].set(id, seen);
        }
      }
    }
    if (!this.#state) {
      [this.#state, this.#shownMode] = [taken.#state, taken.#shownMode];
    }
  }

  /** Looks at all objects at once, and writes what has changed. */
  look(native: NativeService): void {
    for (const _ of this.#looking(native));
  }

  /** Looks at all objects, some in each turn of the event loop, and writes what has changed. */
  async lookInTurns(native: NativeService): Promise<void> {
    for (const _ of this.#looking(native)) {
      await native.turn();
      if (!native.isInitialized()) {
        return;
      }
    }
  }

  /** Puts the mode that was set into the state that was given out. */
  showMode(mode: OrchestratorMode): void {
    if (this.#state) {
      this.#shownMode = mode;
      try {
        this.#state.mode = mode;
      } catch {
        this.#state = undefined;
      }
    }
  }

  /** Looks at the mode of the state that was given out. */
  lookAtMode(native: NativeService): void {
    const mode = this.#state?.mode;
    if (this.#state && mode !== this.#shownMode && typeof mode === 'string') {
      call(() => native.setMode(mode));
      this.#shownMode = mode;
    }
  }

  /**
   * The state as the database has it, with the caller's own objects where they are the same as what is there. It is the same
   * object each time.
   */
  show(texts: StateTexts, head: OrchestratorState): OrchestratorState {
    const [given, shown] = [none(), none()];
    const entity = (kind: Kind, id: string, text: string): never => {
      const mine = this.#given[kind].get(id);
      if (mine) {
        given[kind].set(id, mine);
        if (isStored(mine, text)) {
          // A copy that was given out while the database had newer content goes on to count.
          const copy = this.#shown[kind].get(id);
          if (copy) {
            shown[kind].set(id, copy);
          }
          return mine.object as never;
        }
      }
      let seen = this.#shown[kind].get(id);
      if (!seen || !isStored(seen, text)) {
        if (seen && !isAsLookedAt(seen)) {
          // It has changes that could not be written yet.
          if (!mine) {
            given[kind].set(id, seen);
          }
          seen = undefined;
        }
        // Whoever has the object that was given out before goes on with that.
        seen = { object: renewed(seen?.object, JSON.parse(text) as object), before: text, isParsed: true, stored: text };
      }
      shown[kind].set(id, seen);
      return seen.object as never;
    };
    const lists = Object.fromEntries(
      LISTS.map(([list, kind, key]) => {
        const waiting = this.#unknown(list, kind, key);
        const entities: unknown[] = texts[list].map((text) => entity(kind, storedKey(kind, text), text));
        return [list, filled(this.#state?.[list], [...entities, ...waiting])];
      }),
    );
    const { selfImprovement } = head;
    const own = selfImprovement && { selfImprovement: entity('selfImprovement', '', JSON.stringify(selfImprovement)) };
    const state = { ...head, ...lists, ...own };
    [this.#given, this.#shown, this.#shownMode] = [given, shown, state.mode];
    this.#state = this.#state ? withMembers(this.#state, state) : state;
    return this.#state;
  }

  /** Puts an object into the state that was given out, or takes one out of it. */
  #show(kind: Kind, id: string, object: object | undefined, earlier?: object): void {
    const state = this.#state as Record<string, unknown> | undefined;
    if (!state) {
      return;
    }
    try {
      if (kind === 'selfImprovement') {
        if (object) {
          state['selfImprovement'] = object;
        } else {
          delete state['selfImprovement'];
        }
        return;
      }
      const [list, , key] = LISTS.find(([, of]) => of === kind)!;
      const entities = state[list] as Record<string, unknown>[];
      const has = (entity: Record<string, unknown>) => entity?.[key] === id || (typeof entity?.[key] === 'number' && String(entity[key]) === id);
      if (!object) {
        state[list] = entities.filter((entity) => !has(entity));
        return;
      }
      let index = entities.indexOf((earlier ?? object) as Record<string, unknown>);
      index = index < 0 ? entities.findIndex(has) : index;
      entities[index < 0 ? entities.length : index] = object as Record<string, unknown>;
    } catch {
      // Frozen, or made of something else by the caller: it is given out anew the next time.
      this.#state = undefined;
    }
  }

  /** Looks at everything; yields where others may have a turn. What was found until then is written. */
  *#looking(native: NativeService): Generator<void> {
    let found: [Kind, string, Seen, string][] = [];
    let [characters, objects] = [0, 0];
    const epoch = this.#epoch;
    this.#lookAtLists(native);
    for (const objectsOf of [this.#given, this.#shown]) {
      for (const kind of KINDS) {
        for (const [id, seen] of objectsOf[kind]) {
          // The maps may have been replaced during a yield: an object that was replaced or removed since does not count.
          if (this.#given[kind].get(id) !== seen && this.#shown[kind].get(id) !== seen) {
            continue;
          }
          const now = textOf(seen.object);
          objects += 1;
          if (now === undefined) {
            refuse(seen, '', `the ${kind} ${id} cannot be written as JSON`);
          } else {
            characters += now.length;
            if (now !== seen.refused && hasChanged(seen, now)) {
              found.push([kind, id, seen, now]);
            }
          }
          if (characters > TURN.characters || objects > TURN.objects) {
            this.#write(native, found);
            [found, characters, objects] = [[], 0, 0];
            yield;
            if (this.#epoch !== epoch) {
              return;
            }
          }
        }
      }
    }
    this.#write(native, found);
  }

  #write(native: NativeService, found: [Kind, string, Seen, string][]): void {
    const changes: LiveChange[] = [];
    const written: [Kind, string, Seen, string][] = [];
    for (const each of found) {
      const [kind, id, seen, now] = each;
      const key = kind === 'selfImprovement' ? id : keyOf(kind, seen.object, now);
      if (key === undefined) {
        refuse(seen, now, `the ${kind} ${id} has lost its ${kind === 'agent' ? 'sessionName' : 'id'}`);
      } else if (key !== id) {
        // It has become another entity; this one stays as it is.
        this.#add(native, kind, seen.object);
        this.#given[kind].delete(id);
        this.#shown[kind].delete(id);
      } else {
        changes.push({ kind, before: seen.before, now });
        written.push(each);
      }
    }
    if (changes.length === 0) {
      return;
    }
    const outcomes = call(() => native.writeChanges(changes));
    for (const [index, [kind, id, seen, now]] of written.entries()) {
      const outcome = outcomes[index];
      if (outcome === 'gone') {
        this.forget(kind, id);
      } else if (outcome) {
        refuse(seen, now, parsedError(outcome).message);
      } else {
        [seen.before, seen.stored, seen.differs, seen.refused] = [now, undefined, undefined, undefined];
      }
    }
  }

  /** Objects that the caller has put into the lists of the state. What was taken out of them stays: that is what removing is for. */
  #lookAtLists(native: NativeService): void {
    const state = this.#state as Record<string, unknown> | undefined;
    if (!state) {
      return;
    }
    this.lookAtMode(native);
    for (const [list, kind, key] of LISTS) {
      for (const entity of this.#unknown(list, kind, key)) {
        this.#add(native, kind, entity);
      }
    }
    const own = state['selfImprovement'];
    if (typeof own === 'object' && own !== null && !this.#knows('selfImprovement', undefined, own)) {
      this.#add(native, 'selfImprovement', own);
    }
  }

  /** Objects that the caller has put into a list of the state, and that were not added or could not be. */
  #unknown(list: (typeof LISTS)[number][0], kind: Kind, key: string): object[] {
    const entities: unknown = this.#state?.[list];
    return Array.isArray(entities)
      ? (entities as unknown[]).filter((it): it is object => typeof it === 'object' && it !== null && !this.#knows(kind, key, it))
      : [];
  }

  #knows(kind: Kind, key: string | undefined, object: object): boolean {
    try {
      const id = key === undefined ? '' : wellFormed(String((object as Record<string, unknown>)[key]));
      return this.#given[kind].get(id)?.object === object || this.#shown[kind].get(id)?.object === object;
    } catch {
      return true;
    }
  }

  /** Adds an object that was not handed over. */
  #add(native: NativeService, kind: Kind, object: object): void {
    const text = textOf(object);
    if (text === undefined || this.#refused.get(object) === text) {
      return;
    }
    try {
      update(native, kind, text);
      this.give(kind, object, text);
    } catch (error) {
      if (!(error instanceof StatePersistenceError && ['INVALID_VALUE', 'OWN_OBJECT'].includes(error.code))) {
        throw error;
      }
      this.#refused.set(object, text);
      console.warn(`agentmux-state: an object in the state is not saved: ${error.message}`);
    }
  }
}

/** Writes an entity. */
export function update(native: NativeService, kind: Kind, text: string): void {
  call(() => {
    switch (kind) {
      case 'conversation':
        return native.updateConversation(text);
      case 'task':
        return native.updateTask(text);
      case 'agent':
        return native.updateAgent(text);
      case 'project':
        return native.updateProject(text);
      case 'selfImprovement':
        return native.updateSelfImprovement(text);
    }
  });
}

/** A key as the database has it: half of a surrogate pair becomes U+FFFD. */
export function wellFormed(key: string): string {
  return (key as string & { toWellFormed(): string }).toWellFormed();
}

/** An object's JSON; nothing where it has none at the moment. */
function textOf(object: object): string | undefined {
  try {
    return JSON.stringify(object);
  } catch {
    return undefined;
  }
}

/** The key of an entity, from the object or, where that is made up, from its JSON. */
function keyOf(kind: Kind, object: object, text: string): string | undefined {
  const member = kind === 'agent' ? 'sessionName' : 'id';
  try {
    const { [member]: own, toJSON } = object as Record<string, unknown>;
    const key = typeof own === 'string' && toJSON === undefined ? own : (JSON.parse(text) as Record<string, unknown>)[member];
    return key === undefined || key === null ? undefined : wellFormed(String(key));
  } catch {
    return undefined;
  }
}

/** The key in an entity's JSON as the native part writes it: there it is the first member. */
function storedKey(kind: Kind, text: string): string {
  const found = /^\{"(?:id|sessionName)":("(?:[^"\\]|\\.)*")/.exec(text);
  return found ? (JSON.parse(found[1]!) as string) : (keyOf(kind, {}, text) ?? '');
}

/** Whether an object, as it was looked at last, is what the database has. */
function isStored(seen: Seen, text: string): boolean {
  if (seen.stored === text || seen.before === text) {
    return true;
  }
  if (seen.differs === text) {
    return false;
  }
  const same = isSame(JSON.parse(seen.before), JSON.parse(text));
  seen[same ? 'stored' : 'differs'] = text;
  return same;
}

/** Whether two JSON values are the same, in whatever order their members stand; null counts as absent. */
function isSame(one: unknown, other: unknown): boolean {
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null) {
    return one === other;
  }
  if (Array.isArray(one) !== Array.isArray(other)) {
    return false;
  }
  const [these, those] = [one as Record<string, unknown>, other as Record<string, unknown>];
  const there = (of: Record<string, unknown>) => Object.keys(of).filter((key) => of[key] !== null);
  const keys = there(these);
  return keys.length === there(those).length && keys.every((key) => Object.hasOwn(those, key) && isSame(these[key], those[key]));
}

/** Whether an object is as it was when it was looked at last. */
function isAsLookedAt(seen: Seen): boolean {
  const now = seen.refused === undefined ? textOf(seen.object) : undefined;
  return now !== undefined && !hasChanged(seen, now);
}

/** Whether an object has changed since it was looked at last. */
function hasChanged(seen: Seen, now: string): boolean {
  if (now !== seen.before && seen.isParsed) {
    // As JavaScript had it when it was read: nobody has changed what that alone makes different.
    [seen.before, seen.isParsed] = [JSON.stringify(JSON.parse(seen.before)), false];
  }
  return now !== seen.before;
}

/**
 * An object with new members in the place of its own; one with those where it cannot be changed. Objects and lists in it stay
 * the same ones, too.
 */
function renewed<T extends object>(object: T | undefined, members: T): T {
  if (!object) {
    return members;
  }
  const own: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(members)) {
    const earlier = Object.getOwnPropertyDescriptor(object, key)?.value as unknown;
    const inside = Array.isArray(earlier) && Array.isArray(value) ? filled(earlier, kept(earlier, value)) : value;
    const member = isPlain(earlier) && isPlain(value) ? renewed(earlier, value) : inside;
    Object.defineProperty(own, key, { value: member, enumerable: true, configurable: true, writable: true });
  }
  return withMembers(object, own as T);
}

/** An object with other members in the place of its own; those where it cannot be changed. */
function withMembers<T extends object>(object: T, members: T): T {
  try {
    for (const key of Object.keys(object)) {
      delete (object as Record<string, unknown>)[key];
    }
    // Not by assignment: a document may have a member `__proto__`.
    return Object.defineProperties(object, Object.getOwnPropertyDescriptors(members));
  } catch {
    return members;
  }
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** The elements of a new list; those that an earlier one has, too, as the objects that it has. */
function kept(earlier: unknown[], elements: unknown[]): unknown[] {
  const there = new Map<string, unknown[]>();
  for (const element of earlier.filter((it) => typeof it === 'object')) {
    const text = JSON.stringify(element);
    there.set(text, [...(there.get(text) ?? []), element]);
  }
  return elements.map((element) => there.get(JSON.stringify(element))?.shift() ?? element);
}

/** A list with new elements in the place of its own; a new list where there is none, or it cannot be changed. */
function filled(list: unknown, elements: unknown[]): unknown[] {
  if (!Array.isArray(list) || Object.isFrozen(list) || Object.isSealed(list)) {
    return elements;
  }
  list.length = 0;
  for (const element of elements) {
    list.push(element);
  }
  return list;
}

/** Notes that an object cannot be written as it is now, and says so once. */
function refuse(seen: Seen, now: string, why: string): void {
  if (seen.refused === undefined) {
    console.warn(`agentmux-state: a change is not saved, and the last good version stays: ${why}`);
  }
  seen.refused = now;
}
