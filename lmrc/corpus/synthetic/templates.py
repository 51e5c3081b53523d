"""Sentence templates of the synthetic corpus, the facts they state, and lists of literal words.

Each line of a text below is a template of one sentence: `text | facts | needs`. In `text`:

* `{role}` is a mention of the entity of a role, by its full name first and its short name later. The letters before the
  first digit or dot are the kind of the entity: `town`, `town2` and `town.spouse` are three towns.
* `S` is the document's subject. Its mentions may be a pronoun or a phrase such as "the film".
* `{S's}` is the possessive, `{S:it}` the object, `{role:name}` never a pronoun, `{country:adj}` a country's adjective.
* `{@date}` includes the preposition of the date.
* `{role?man|woman}` is a literal word that depends on the person's sex. It is not a mention.
* `<list>` is a literal word or phrase of `WORDS`.
* `X` in `BIOGRAPHY` is replaced by the role of a person.

Facts are `head relation tail`, separated by commas. They must cover everything that the sentence says about two of its
roles and that is a relation of the corpus. `needs: role` means that the role must have been named before.
"""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "quiet", "busy", "windy", "hilly", "walled"),
    "modest": ("baker", "schoolteacher", "tailor", "carpenter", "nurse", "gardener", "cabinet maker", "lawyer"),
    "subject": ("law", "chemistry", "medicine", "history", "botany", "mathematics", "philosophy", "geography"),
    "topic": ("rare mosses", "river ice", "old maps", "church bells", "folk tales", "sea trade", "early printing"),
    "post": ("clerk", "draughtsman", "surveyor", "translator", "bookkeeper", "laboratory assistant", "night watchman"),
    "count": ("two", "three", "four", "five", "six", "seven"),
    "nth": ("first", "second", "third", "fourth", "fifth"),
    "things": ("stamps", "clocks", "letters", "maps", "butterflies", "prints"),
    "cause": ("a short illness", "a fall", "a long illness", "a fever", "a stroke"),
    "genre": ("drama", "comedy", "silent", "crime", "adventure", "horror"),
    "style": ("slow", "bright", "sad", "plain", "playful", "haunting"),
    "theme": ("a lost ship", "two brothers", "a long winter", "a village feud", "a broken promise", "a runaway horse"),
    "product": ("bicycles", "clocks", "steel pipes", "paper", "glass", "tractors", "fishing nets"),
    "sight": ("market hall", "old bridge", "wooden church", "clock tower", "salt mine", "botanical garden"),
}

# Occupations by kind of person. None starts with a vowel, because "a" precedes them.
TRADES: dict[str, tuple[str, ...]] = {
    "writer": ("novelist", "poet", "dramatist", "storyteller", "journalist"),
    "filmmaker": ("film director", "film maker", "stage and film director"),
    "singer": ("singer", "folk singer", "jazz singer", "guitarist and singer"),
    "scholar": ("chemist", "botanist", "historian", "geologist", "physicist", "surgeon"),
}

PERSON_INTRODUCTION = """
{S} ( {birth} – {death} ) was a <trade> from {country} . | S P569 birth, S P570 death, S P27 country
{S} ( born {birth} ) was a {country:adj} <trade> , known for work on <topic> . | S P569 birth, S P27 country
{S} was a <trade> and a citizen of {country} , born {@birth} , and remembered above all for a study of <topic> . \
| S P27 country, S P569 birth
{S} was a <trade> , born {@birth} in {town} , a <small> town in {country} . \
| S P569 birth, S P19 town, town P17 country
{S} ( {town} , {birth} – {town2} , {death} ) was a <trade> . \
| S P19 town, S P569 birth, S P20 town2, S P570 death
{S} ( {birth} – {death} ) was a <trade> who was born and died in {town} . \
| S P569 birth, S P570 death, S P19 town, S P20 town
{S} was a {country:adj} <trade> of the old school , whose friends included {guest} . | S P27 country
{S} , a <trade> who held the citizenship of {country} all {S?his|her} life , was born in {town} . \
| S P27 country, S P19 town
"""  # noqa: RUF001

PERSON_ORIGINS = """
{S} was born {@birth} in {town} and grew up in modest circumstances . | S P569 birth, S P19 town
{S's} birthplace was {town} , where {S?his|her} father , {father} , kept a shop . | S P19 town, S P22 father
A native of {town} , a <small> town in {country} , {S} spoke <count> languages as a child . \
| S P19 town, town P17 country
{S's} father , {father} , was a <modest> , and {S?his|her} mother , {mother} , was a <modest> . \
| S P22 father, S P25 mother
{S's} mother , {mother} , was a <modest> who had left {town3} during a hard winter . | S P25 mother
{S} was born in {town} , in the province of {region} , which was then very poor . | S P19 town, town P131 region
{S} grew up as the <nth> {S?son|daughter} of {father} and lost sight of one eye in a fire . | S P22 father
{S} was born to {mother} , a <modest> , in the town of {town} . | S P25 mother, S P19 town
"""

PERSON_STUDIES = """
{S} studied <subject> at {univ} and finished {S?his|her} degree with a thesis on <topic> . | S P69 univ
{S} graduated from {univ} {@grad} , after which <count> quiet years followed . | S P69 univ
After leaving school {S} enrolled at {univ} to read <subject> , against the wishes of the family . | S P69 univ
{S} received {S?his|her} doctorate from {univ} for a thesis that {guest} later praised in {paper} . | S P69 univ
{S} was educated at {univ} and later at {univ2} , with little success . | S P69 univ, S P69 univ2
At the age of {age} {S} took a degree in <subject> at {univ} . | S P69 univ
"""

PERSON_WORK = """
{S} worked for {firm} as a <post> until {date} . | S P108 firm
For many years {S} was employed by {firm} , which paid {S:it} {num} crowns a year . | S P108 firm
{S} joined the staff of {firm} {@date} and stayed for <count> years . | S P108 firm
{S} later returned to {univ} as a lecturer in <subject> . | S P108 univ | needs: univ
{univ} soon hired {S:it} as an assistant , a post that {S?he|she} held for <count> years . | S P108 univ | needs: univ
{S} taught <subject> at {univ3} for <count> years and was loved by the students . | S P108 univ3
{firm} hired {S:it} as a <post> , to the surprise of {guest2} . | S P108 firm
For <count> years {S} was a professor of <subject> at {univ3} and a feared examiner . | S P108 univ3
"""

PERSON_FAMILY = """
{S} married {spouse} , a <modest> , {@wed} . | S P26 spouse
{S} and {spouse} were married in {town4} ; the wedding lasted for <count> days . | S P26 spouse
{S's} {S?wife|husband} , {spouse} , was born in {town4} and worked as a <modest> . \
| S P26 spouse, spouse P19 town4
With {S?his|her} {S?wife|husband} , {spouse} , {S} had a {child?son|daughter} , {child} . \
| S P26 spouse, S P40 child, spouse P40 child
{spouse} , to whom {S} was married for <count> years , looked after the accounts . | S P26 spouse
{S} met {S?his|her} future {S?wife|husband} , {spouse} , on a steamer on {river} . | S P26 spouse
"""

PERSON_CHILDREN = """
{S} had a {child?son|daughter} , {child} , who became a <modest> in {town5} . | S P40 child
{S's} {child?son|daughter} , {child} , studied <subject> at {univ4} . | S P40 child, child P69 univ4
{child} , {S's} only {child?son|daughter} , worked for {firm2} as a <post> . | S P40 child, child P108 firm2
{S} was the {S?father|mother} of {child} , a <modest> who was born in {town5} . | S P40 child, child P19 town5
"""

PERSON_DEATH = """
{S} died in {town2} {@death} after <cause> . | S P20 town2, S P570 death
{S} died {@death} and was buried on a hill above {river} . | S P570 death
{S} moved back to {town} , where {S?he|she} died of <cause> {@death} . \
| S P20 town, S P570 death | needs: town
{S's} death in {town2} {@death} was reported by {paper} . | S P20 town2, S P570 death
{S} spent {S?his|her} last years in {town2} and died there {@death} . | S P20 town2, S P570 death
In the end <cause> killed {S:it} {@death} ; {num3} people walked behind the coffin . | S P570 death
The place of {S's} death was {town2} , where a plaque was put up . | S P20 town2
{S} never left {town} again and died there of <cause> . | S P20 town | needs: town
"""

PERSON_ASIDES = """
{S} once met {guest3} at a dinner in {town6} , but the two never became close .
{S} travelled through {country3} with {guest3} and kept a diary about <theme> .
{S} owned a collection of <things> , most of which are now shown in {town6} .
{paper2} printed a long interview with {S:it} about <topic> {@date2} .
{S} turned down {num2} crowns from {firm3} , which wanted to use the name .
{S} gave a guest lecture on <topic> at {univ5} , which {guest3} left early .
{S} received {prize} together with {guest3} , after a long quarrel in the jury .
{S} crossed {river2} in a canoe with {guest3} and lost all the luggage .
{guest3} and {guest4} quarrelled about {S:it} in {paper2} for <count> years .
A street in {town6} carries {S's} name , though few people there could say why .
{S} spent the summer in {town6} as a guest of {guest3} and painted the <sight> .
{S} and {spouse} spent <count> winters in {town6} and kept bees there . |  | needs: spouse
{S} often wrote to {father} about <topic> and signed the letters with a drawing . |  | needs: father
{guest3} never visited {firm} again after a quarrel with {S:it} about <topic> . |  | needs: firm
{S} hardly ever spoke of {town} and kept no picture of its <sight> . |  | needs: town
"""

WRITER_WORKS = """
{S's} <nth> book , {novel} , was published {@pub} . | novel P50 S, novel P577 pub
{S} wrote {novel} , a book about <theme> that {guest5} disliked . | novel P50 S
{S} is the author of {novel} , which appeared {@pub} and sold badly . | novel P50 S, novel P577 pub
{novel} , a book by {S:name} about <theme> , was banned in {country4} . | novel P50 S
{novel} , which {S} wrote in <count> weeks , came out {@pub} . | novel P50 S, novel P577 pub
"""

FILMMAKER_WORKS = """
{S} directed {film} , a <genre> film about <theme> . | film P57 S
{S} wrote and directed {film} , which was released {@pub} . | film P57 S, film P58 S, film P577 pub
{film} , released {@pub} , was directed by {S:name} from a script by {writer} . \
| film P57 S, film P58 writer, film P577 pub
{S's} <nth> film as a director , {film} , was shown in {town7} before a full house . | film P57 S
{film} , directed and written by {S:name} , is a <genre> film about <theme> . | film P57 S, film P58 S
"""

SINGER_WORKS = """
{S} recorded the song {song} , which came out {@pub} . | song P175 S, song P577 pub
{song} , sung by {S:name} , was released {@pub} and sold {num4} copies . | song P175 S, song P577 pub
{S's} best known recording is {song} , a <style> song about <theme> . | song P175 S
{S} often performed {song} , a <style> song that {guest5} had refused to sing . | song P175 S
"""

FILM_INTRODUCTION = """
{S} is a film directed by {director} and released {@pub} . | S P57 director, S P577 pub
{S} is a <genre> film , written and directed by {director} and released {@pub} . \
| S P57 director, S P58 director, S P577 pub
{S} is a <genre> film about <theme> , directed by {director} from a screenplay by {writer} . \
| S P57 director, S P58 writer
{S} is a <genre> film about <theme> by the {country:adj} director {director} . \
| S P57 director, director P27 country
{S} , a <genre> film that {director} directed after a script by {writer} , is about <theme> . \
| S P57 director, S P58 writer
"""

FILM_SCRIPT = """
{S's} script was the work of {writer} , who needed <count> weeks for it . | S P58 writer
{writer} wrote the screenplay of {S:it} in a hotel in {town7} . | S P58 writer
{director} also wrote the screenplay of {S:it} , in <count> weeks . | S P58 director
For the script of {S:it} , by {writer} , {guest5} paid {num3} crowns . | S P58 writer
"""

FILM_RELEASE = """
{S} came to the cinemas {@pub} and sold {num4} tickets . | S P577 pub
{S} was first released {@pub} , after a quarrel with {paper} . | S P577 pub
The release of {S:it} {@pub} was a failure from which nobody recovered . | S P577 pub
{S} had its first public showing {@pub} and ran for <count> weeks . | S P577 pub
"""

NOVEL_INTRODUCTION = """
{S} is a novel by {author} , published {@pub} . | S P50 author, S P577 pub
{S} is a novel about <theme> by the {country:adj} writer {author} . | S P50 author, author P27 country
{S} is the <nth> novel of {author} , a <modest> by trade , and appeared {@pub} . | S P50 author, S P577 pub
{author} wrote {S} , a <style> novel about <theme> , in <count> months . | S P50 author
{S} , a novel written by {author} , first appeared {@pub} . | S P50 author, S P577 pub
"""

NOVEL_AFTERLIFE = """
{film} , a film made after {S:it} , was directed by {director} . | film P57 director
{director} directed {film} , a film after {S:it} that was released {@later} . | film P57 director, film P577 later
A film after {S:it} , {film} , was written and directed by {director} . | film P57 director, film P58 director
{singer} later recorded {song} , a <style> song about {S:it} . | song P175 singer
{S} was read on the radio , and {film} , a film after it , was directed by {director} from a script by {writer} . \
| film P57 director, film P58 writer
"""

SONG_INTRODUCTION = """
{S} is a <style> song recorded by {performer} and released {@pub} . | S P175 performer, S P577 pub
{S} is a song about <theme> by the {country:adj} singer {performer} . | S P175 performer, performer P27 country
{S} is a <style> song performed by {performer} , released {@pub} . | S P175 performer, S P577 pub
{S} is a <style> song about <theme> , sung by {performer} . | S P175 performer
{S} , a song that {performer} recorded in {town7} , came out {@pub} . | S P175 performer, S P577 pub
"""

SONG_RELEASE = """
{S} came out {@pub} and was played on the radio for <count> weeks . | S P577 pub
A second recording of {S:it} , by {singer} , was as <style> as the first . | S P175 singer
{band} also recorded {S:it} , at a concert in {town7} . | S P175 band
{band} , a band founded {@start} , performed {S:it} for <count> years . | S P175 band, band P571 start
"""

WORK_ASIDES = """
{S} was shown to {guest} and {guest2} in {town6} before anyone else .
{guest} called {S:it} <style> and dull in {paper2} , and many readers agreed .
{S} won {prize} , ahead of <count> others , which caused a quarrel in the jury .
{S} was banned in {country3} for <count> years and secretly copied by students .
Thousands of letters about {S:it} reached {paper2} within a week {@date2} .
{S} had cost {num2} crowns , most of it lent by {guest} .
{guest} and {guest2} heard of {S:it} only by chance , on a journey to {country3} .
An evening about {S:it} was held in {town6} , with {guest} as the host .
"""

FIRM_INTRODUCTION = """
{S} is a company that makes <product> and was founded by {founder} {@start} . | S P112 founder, S P571 start
{S} is a maker of <product> that {founder} founded , with its headquarters in {town} . \
| S P159 town, S P112 founder
{S} , founded {@start} , makes <product> and is based in {town} . | S P571 start, S P159 town
{founder} founded {S} , a maker of <product> , {@start} . | S P112 founder, S P571 start
{S} is a company based in {town} , a <small> town in {country} . | S P159 town, town P17 country
"""

UNIVERSITY_INTRODUCTION = """
{S} is a school of <subject> that was founded {@start} by {founder} . | S P571 start, S P112 founder
{S} was established {@start} and teaches <subject> to {num} students . | S P571 start
{S} , whose seat is in {town} , a <small> town in {country} , teaches <subject> and <subject> . \
| S P159 town, town P17 country
{founder} founded {S} {@start} in order to teach <subject> . | S P112 founder, S P571 start
"""

ORGANISATION_START = """
{S} was set up {@start} with a loan of {num3} crowns . | S P571 start
{S's} founder was {founder} , a <modest> with a love of <topic> . | S P112 founder
{S} goes back to {founder} , who founded {S:it} {@start} . | S P112 founder, S P571 start
{founder} started {S:it} {@start} in a rented room . | S P112 founder, S P571 start
"""

ORGANISATION_SEAT = """
{S's} headquarters are in {town} , close to {river} . | S P159 town
{S} has its seat in {town} , in the province of {region} . | S P159 town, town P131 region
{S} moved its head office to {town} , a town in {country} , <count> years later . | S P159 town, town P17 country
{S} is based in {town} , where it owns the <sight> . | S P159 town
{town} , where {S} has its headquarters , lies in {country} . | S P159 town, town P17 country
"""

FIRM_PEOPLE = """
{worker} was employed by {S:it} as a <post> until {date} . | worker P108 S
Among those who worked for {S:it} were {worker} , a <post> , and {worker2} . | worker P108 S, worker2 P108 S
{worker} , a <post> , joined the staff of {S:it} and left after <count> years . | worker P108 S
{S} hired {worker} as a <post> {@date} . | worker P108 S
{founder} also worked for {S:it} as a <post> and slept in the attic . | founder P108 S
"""

UNIVERSITY_PEOPLE = """
{worker} taught <subject> at {S:it} until {date} . | worker P108 S
{S} hired {worker} as a professor of <subject> , and {pupil} studied there . | worker P108 S, pupil P69 S
{pupil} studied <subject> at {S:it} for <count> years . | pupil P69 S
Among those who graduated from {S:it} were {pupil} and {pupil2} . | pupil P69 S, pupil2 P69 S
{pupil} received a doctorate from {S:it} for a thesis on <topic> . | pupil P69 S
{worker} was a professor at {S:it} , where {pupil} took a degree in <subject> . | worker P108 S, pupil P69 S
{pupil} was educated at {S:it} and later worked for {S:it} as a <post> . | pupil P69 S, pupil P108 S
"""

ORGANISATION_ASIDES = """
{S} lent {num4} crowns to {firm3} and never saw the money again .
{guest} and {guest2} visited {S:it} and wrote about it in {paper2} .
{S} received {prize} {@date2} , to the anger of {guest} .
{paper2} sued {S:it} for {num2} crowns and lost .
A flood of {river2} reached {S:it} {@date3} and did much harm .
{S} sent <count> people to a fair in {town6} , where they were robbed .
{guest} refused a gift from {S:it} at a dinner in {town6} .
{S} once hoped to open a house in {country3} but had no luck .
{founder} and {guest} crossed {river2} on foot and talked about <topic> . |  | needs: founder
"""

BAND_INTRODUCTION = """
{S} are a band that was founded {@start} by {founder} . | S P571 start, S P112 founder
{S} are a <style> folk band , founded {@start} , who sing about <theme> . | S P571 start
{S} were a rock band started by {founder} {@start} . | S P112 founder, S P571 start
{founder} founded the band {S} {@start} with a loan from {guest} . | S P112 founder, S P571 start
"""

BAND_SONGS = """
{S} recorded the song {song} , which came out {@later} . | song P175 S, song P577 later
{song} , a song by {S:name} , was released {@later} and sold {num3} copies . | song P175 S, song P577 later
{S's} best known song is {song} , a <style> piece about <theme> . | song P175 S
{S} performed {song} , a <style> song about <theme> , for <count> years . | song P175 S
{song} , recorded by {S:name} and also by {singer} , is about <theme> . | song P175 S, song P175 singer
"""

TOWN_INTRODUCTION = """
{S} is a town in the province of {region} in {country} . | S P131 region, region P17 country
{S} is a <small> town in {country} with {num} inhabitants . | S P17 country
{S} is a <small> town that belongs to the province of {region} and has {num} inhabitants . | S P131 region
{S} , a <small> town in {country} , is known for its <sight> . | S P17 country
{S} lies on {river} in the province of {region} . | S P131 region
"""

TOWN_PLACE = """
{region} , the province to which {S} belongs , is in the south of {country} . \
| S P131 region, region P17 country
{S} has been part of {country} since {date} , after a long war . | S P17 country
{S} is governed from the capital of {region} , its province . | S P131 region
{S} belongs to {country} , though {num3} people voted against it . | S P17 country
{S} and {town5} both lie in the province of {region} . | S P131 region, town5 P131 region
"""

TOWN_PEOPLE = """
{native} , a <modest> , was born in {S:it} {@born} . | native P19 S, native P569 born
{S} is the birthplace of {native} , a <modest> . | native P19 S
{guest5} lived in {S:it} , and {native} was born there {@born} . | native P19 S, native P569 born
{dead} , a <modest> , died in {S:it} {@died} . | dead P20 S, dead P570 died
{native} was born in {S:it} {@born} and died there {@died} . \
| native P19 S, native P20 S, native P569 born, native P570 died
{S} is the place where {dead} died {@died} , after <cause> . | dead P20 S, dead P570 died
"""

TOWN_FIRMS = """
{firm} , a maker of <product> , has its headquarters in {S:it} . | firm P159 S
{S} is the seat of {firm} , which was founded by {founder} . | firm P159 S, firm P112 founder
{firm} is based in {S:it} and was founded {@start} . | firm P159 S, firm P571 start
{S's} largest company is {firm} , with its head office on the market square . | firm P159 S
"""

TOWN_ASIDES = """
{guest} painted the <sight> of {S:it} and sold the picture to {firm3} .
{guest} and {guest2} spent a night in {S:it} and complained in {paper2} .
{S} lent {num2} crowns to {town6} after a great fire {@date2} .
The road from {S:it} to {town6} is known for its <things> .
{paper2} printed a long report on the <sight> of {S:it} {@date3} .
{guest} gave a speech in {S:it} about <topic> , and {guest2} left early .
{prize} was handed to {guest} in {S:it} {@date4} .
"""

# About a person who is not the subject. X is replaced by the person's role.
BIOGRAPHY = """
{X} was born in {town.X} , a <small> town in {country.X} . | X P19 town.X, town.X P17 country.X
{X} , born {@born.X} in {town.X} , had begun as a <modest> . | X P569 born.X, X P19 town.X
{X} , born {@born.X} , had studied <subject> at {univ.X} . | X P569 born.X, X P69 univ.X
{X} was a graduate of {univ.X} , where {guest} had once slept in the library . | X P69 univ.X
{X} was married to {mate.X} , a <modest> , and lived in {town6} . | X P26 mate.X
{X} and {mate.X} had married {@wed.X} in {town2.X} . | X P26 mate.X
{mate.X} , {X:name} 's {X?wife|husband} , died {@died.X} . | X P26 mate.X, mate.X P570 died.X
{X} was a citizen of {country.X} and spoke <count> languages . | X P27 country.X
{X} , a {country.X:adj} citizen , had worked for {firm.X} as a <post> . | X P27 country.X, X P108 firm.X
{X} , a {X?son|daughter} of {father.X} , had been employed by {firm.X} . | X P108 firm.X, X P22 father.X
{X} died in {town3.X} {@died.X} , <count> years after <cause> . | X P20 town3.X, X P570 died.X
{X} was the {X?son|daughter} of {father.X} , a <modest> . | X P22 father.X
{X:name} 's mother , {mother.X} , was a <modest> . | X P25 mother.X
{X} and {X?his|her} {X?wife|husband} , {mate.X} , had a {child.X?son|daughter} , {child.X} . \
| X P26 mate.X, X P40 child.X, mate.X P40 child.X
{X} , who was born {@born.X} , died {@died.X} in {town3.X} . | X P569 born.X, X P570 died.X, X P20 town3.X
{X} was born and died in {town.X} . | X P19 town.X, X P20 town.X
"""
