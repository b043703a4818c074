"""What happens in the stories: each plot is a row of beats, each beat some ways to tell it. A leading ? may be left out."""

from __future__ import annotations

Plot = tuple[tuple[str, ...], ...]

PLOTS: dict[str, Plot] = {
    "lost": (
        (
            "One {weather} [morning|day|afternoon], {hero} could not find {his} {thing}.",
            "{hero} had {a_thing} that {he} [loved very much|took everywhere]. One {weather} day it was gone.",
            "{His} favorite thing in the world was {a_thing}. But one {weather} morning the {thing} was not there.",
        ),
        (
            "{He} looked under the bed, behind the door and in [the garden|every corner|the old box].",
            "{He} looked [here and there|everywhere|high and low], but the {thing} was [nowhere|not there].",
            "First {he} looked at home. Then {he} looked {path}.",
        ),
        (
            "?{hero} [felt|was] so sad that {he} [almost cried|sat down and sighed].",
            '?"[Where can it be|Where did I leave it]?" {he} [asked|said|thought].',
        ),
        (
            '{friend}, {fwho}, [came by|saw {him}|heard about it]. "[What is wrong|What happened|Why are you sad]?" {fhe} asked.',
            '{He} [met|saw] {fwho} named {friend}. "[I lost|I cannot find] my {thing}," said {hero}.',
        ),
        (
            '"[Let us look together|I will help you|Two can look better than one]," said {friend}.',
            '{friend} [thought for a moment|smiled]. "When did you have it last?" {fhe} asked. "[{There}|Yesterday, {there}]," said {hero}.',
        ),
        (
            "They [walked|went] {path} and [looked at|searched near] {sight}.",
            "Together they [went back|walked back] {path}, step by step.",
            "They asked everyone they met, but nobody had seen the {thing}.",
        ),
        (
            "[Suddenly|Then|At last] {friend} [pointed|called]. There was the {thing}, [under a leaf|between two stones|behind a bush|on a low branch]!",
            "And there it was! The {thing} lay [in the grass|next to an old log|by the water|in a small hole].",
        ),
        (
            '{hero} [hugged|held] the {thing} and [laughed|smiled]. "Thank you, {friend}!" {he} said.',
            '"You found it!" [cried|said] {hero}. {He} was so happy that {he} [danced|jumped up and down].',
        ),
        (
            "From that day on, {hero} always put the {thing} in its place.",
            "After that, {hero} and {friend} played with the {thing} together.",
            "?{hero} [learned|knew now] that a friend can make a hard thing easy.",
        ),
    ),
    "bird": (
        (
            "One {weather} day, {hero} heard a [small|soft|tiny] sound [{there}|near {sight}].",
            "As {hero} walked {path}, {he} heard somebody [cry|call].",
        ),
        (
            "It was a [little|small|young] bird with a [hurt|broken] wing.",
            "A [little|tiny] bird lay on the ground. It could not fly.",
        ),
        (
            '"[Do not be afraid|I will help you|You poor thing]," [whispered|said] {hero}.',
            "The bird [was afraid|shook with fear], so {hero} spoke to it [softly|in a quiet voice].",
        ),
        (
            "{He} [carried|took] the bird home in {his} [hat|hands|basket] and made a bed of [leaves|wool|soft grass].",
            "{hero} put the bird into a warm box and gave it [water|some seeds].",
        ),
        (
            "Every day {hero} brought it [seeds|crumbs and water|berries]. {friend}, {fwho}, came to help.",
            "{friend} knew a lot about birds. {fHe} showed {hero} how to [bind|care for] the wing.",
        ),
        (
            "?{hero} gave the bird a name. {He} called it [Pip|Dot|Feather|Sky].",
            "?At night {hero} sang to the bird until it fell asleep.",
        ),
        (
            "[After two weeks|Slowly|Day by day], the wing grew strong again.",
            "Soon the bird [hopped around|sang in the morning|flapped its wings].",
        ),
        (
            "One morning {hero} opened [the window|the door]. The bird flew [out|away] over {sight}.",
            "Then the day came when the bird [wanted to fly|was ready]. {hero} let it go.",
        ),
        (
            "{hero} was a little sad, but {he} was [glad|proud] too.",
            "{hero} waved until the bird was only a dot in the sky.",
        ),
        (
            "[The next spring|Some weeks later], the bird came back and sang [by {his} window|for {him}].",
            "And every morning the bird came to say [hello|good morning].",
        ),
    ),
    "skill": (
        (
            "{hero} wanted to learn to {skill}.",
            "There was one thing that {hero} could not do. {He} could not {skill}.",
            "{hero} [dreamed|often dreamed] of one thing: {he} wanted to {skill}.",
        ),
        (
            "{His} friend {friend} could {skill} very well.",
            "{friend}, {fwho}, could {skill} better than anyone else {there}.",
        ),
        (
            '"[Will you teach me|Can you show me how]?" asked {hero}. "[Of course|Yes, I will]," said {friend}.',
            "{hero} [tried|started] alone, but it [did not work|went wrong] at all.",
        ),
        (
            "The first day was [very hard|not easy]. {hero} tried ten times and failed ten times.",
            "At first {hero} [made many mistakes|did everything wrong].",
        ),
        (
            '?"I will never learn it," said {hero} and sat down.',
            "?Some of the others laughed. That made {hero} [sad|angry|want to stop].",
        ),
        (
            '"[Do not give up|Try again|Nobody can do it at first]," said {friend}. "[A little better every day|Slow is fine|I needed a year too]."',
            'But {friend} said, "Take a deep breath and [try again|begin once more]."',
        ),
        (
            "So {hero} [practiced|tried again] every [morning|day|evening] {there}.",
            "{hero} did not stop. {He} practiced in the sun and in the rain.",
        ),
        (
            "[Then|And then|At last], one {weather} day, it worked. {hero} could {skill}!",
            "After a [week|month|long time], {hero} could [really |]{skill}.",
        ),
        (
            '"[Look at me|I can do it|I did it]!" {he} [cried|shouted|called]. {friend} [clapped|cheered].',
            "Everyone [clapped|came to see it]. {hero} was very proud.",
        ),
        (
            "{hero} [had learned|learned] that practice [helps|makes the difference].",
            "Now {hero} teaches others to {skill}.",
            "?And {he} never forgot to thank {friend}.",
        ),
    ),
    "storm": (
        (
            "One day dark clouds came over {place}.",
            "The sky {there} turned [grey|dark], and the wind [grew strong|began to howl].",
        ),
        ("{hero} was [outside|far from home] with {his} {thing}.", "{hero} was on the way home."),
        (
            "[Then|Soon] the rain came down, and thunder [rolled|shook the ground].",
            "There was a flash of light, and then [a loud boom|loud thunder].",
        ),
        (
            "{hero} was [afraid|very scared] and began to run.",
            "The wind [pulled at|almost took] the {thing}, but {hero} held on.",
        ),
        (
            "[Behind|Near] {sight}, {he} saw [a light|a small hut|a cave].",
            "{He} looked for a dry place and found [a small cave|an old barn|a hollow tree].",
        ),
        (
            'Somebody was already there. It was {friend}, {fwho}. "Come in, [it is warm here|there is room for two]," {fhe} said.',
            'Inside sat {fwho}. "My name is {friend}," {fhe} said. "[Are you wet|Are you cold|Do you want some tea]?"',
        ),
        (
            "They [shared|ate] {food} and told each other stories.",
            "They sat close together and [sang songs|counted the seconds between light and thunder].",
        ),
        ('?"Thunder is only noise," said {friend}. "It cannot hurt us here."', "?{hero} was not afraid any more."),
        (
            "[After an hour|At last|When the evening came], the storm was over. A rainbow stood over {place}.",
            "Then the rain stopped, and the sun came out [again|over {sight}].",
        ),
        (
            "{hero} and {friend} walked home together.",
            '"Thank you for the [warm place|stories]," said {hero}, and they became friends.',
        ),
        ("Since then, {hero} thinks of {friend} when it rains.", "?And when the next storm came, they were not alone."),
    ),
    "share": (
        ("One {weather} day, {hero} had {food} for lunch.", "{hero} packed {food} and went out {path}."),
        ("{He} sat down {there} and [opened {his} bag|wanted to eat].", "{He} found a nice place near {sight}."),
        (
            "[Then|Just then] {friend}, {fwho}, came along. {fHe} looked [hungry|tired and hungry].",
            "{Fwho} sat there too. {fHis} name was {friend}, and {fhe} had nothing to eat.",
        ),
        (
            "?{hero} wanted to keep everything. {He} was hungry too.",
            "?{hero} looked at {his} lunch and thought about it.",
        ),
        (
            '"[Would you like some|Do you want half|Are you hungry]?" asked {hero}.',
            '"There is enough for two," said {hero} [and smiled|in a friendly voice].',
        ),
        (
            '{friend} was [surprised|so glad]. "[Yes, please|You are very kind]," {fhe} said.',
            '"Really?" asked {friend}. "Nobody has shared with me before."',
        ),
        (
            "They ate {food} together and [talked|laughed] [a lot|all afternoon].",
            "The food tasted [better|twice as good] with a friend.",
        ),
        (
            "The next day, {friend} brought {food2} and gave half of it to {hero}.",
            "A week later {hero} forgot {his} lunch. But {friend} was there with {food2}.",
        ),
        (
            "From then on they ate together every day.",
            "{hero} was happy. [To share is to have more|What you give comes back], {he} thought.",
        ),
    ),
    "gift": (
        (
            "It was the birthday of {his} friend {friend}, {fwho}.",
            "{friend}, {fwho}, was the best friend of {hero}. [Tomorrow|In three days] {fhe} would have a birthday.",
        ),
        (
            "{hero} wanted to give {fhim} something [special|nice], but {he} had no money.",
            '"What can I give {fhim}?" {hero} [asked|thought].',
        ),
        (
            "{He} walked {path} and [thought|looked around].",
            '{hero} asked {his} {elder}. "The best gifts are made by hand," {ehe} said.',
        ),
        (
            "{He} found [a smooth stone|some wood|a piece of cloth|a few shells] near {sight}.",
            "{hero} took [paper and paint|some wool|an old board] and started.",
        ),
        (
            "{He} worked [all day|for two days|until late] and made {a_thing}.",
            "With care {he} made {a_thing} out of it.",
        ),
        ("?It was not perfect, but it was [beautiful|made with love].", "?{His} fingers hurt, but {he} did not stop."),
        (
            "At the party there were many big gifts. {hero} was [shy|a little afraid] to show {his}.",
            "On the day of the birthday, {hero} put the gift on the table.",
        ),
        (
            '{friend} opened it and [smiled|was quiet for a moment]. "[This is the best gift of all|You made this for me]!" {fhe} said.',
            '"A {thing}!" cried {friend}. "[I always wanted one|It is wonderful]."',
        ),
        (
            "{hero} was so happy that {he} [turned red|laughed].",
            "They played with the {thing} until [the sun went down|it was dark].",
        ),
        (
            "{friend} kept the {thing} for [many years|all {fhis} life].",
            "?And {hero} knew that {his} {elder} was right.",
        ),
    ),
    "dark": (
        ("{hero} was afraid of the dark.", "Every night, when the light went out, {hero} was afraid."),
        (
            "One night {he} heard a [strange|soft|scratching] noise [under the bed|at the window|outside].",
            "{He} saw a long shadow on the wall, and it moved.",
        ),
        ("{He} pulled the blanket over {his} head.", '"Who is there?" {he} [asked|whispered]. Nobody answered.'),
        (
            '{His} {elder} came with a [small lamp|candle]. "What is it?" {ehe} asked.',
            "{hero} called {his} {elder}, and {ehe} came at once.",
        ),
        (
            "Together they looked. The [noise|shadow] was only [a branch|a moth|the old cat].",
            "They looked under the bed. There was nothing but {a_thing}.",
        ),
        (
            '"The dark is like a blanket," said {his} {elder}. "It [covers|keeps] everything while it sleeps."',
            '"Come," said {his} {elder}, and they went outside to see the stars.',
        ),
        (
            "Above {place} [shone|stood] a thousand stars.",
            "{hero} saw the moon over {sight}. It was [round|bright] and kind.",
        ),
        ('?"Without the dark we could not see the stars," said {hero}.', "?An owl called, and {hero} was not afraid."),
        (
            "That night {hero} slept [well|deep and long].",
            "{hero} [went to bed|lay down] and closed {his} eyes [without fear|with a smile].",
        ),
        (
            "Now {he} likes the night, and sometimes {he} tells {friend} about the stars.",
            "Since then, {hero} says good night to the moon.",
        ),
    ),
    "seed": (
        (
            "One spring day, {hero} found a [small|strange|shiny] seed {spot}.",
            "{friend}, {fwho}, gave {hero} a [tiny|small] seed.",
        ),
        (
            '"[What will it be|I wonder what it will be]?" {he} [asked|said].',
            "It did not look like much, but {hero} kept it.",
        ),
        (
            "{He} planted it {there} and gave it water every [day|morning].",
            "{hero} made a hole in the ground, put the seed in and covered it.",
        ),
        (
            "{He} waited one day, two days, three days. Nothing happened.",
            "A week went by, but there was only [brown earth|dirt].",
        ),
        ('?"It is asleep," said {friend}. "[Give it time|You must wait]."', "?{hero} almost gave up."),
        ("Then, after the rain, a little green leaf came up.", "One {weather} morning there was something green."),
        (
            "It grew and grew. [Soon it was as tall as {hero}|Every week it was taller].",
            "{hero} sang to it and kept the [bugs|weeds] away.",
        ),
        (
            "In summer it had [a big yellow flower|red flowers|sweet fruit].",
            "In the end it was a [tall sunflower|plum tree|rose bush].",
        ),
        (
            'Everyone came to see it. "How did you do that?" asked {friend}. "I [waited|gave it water and time]," said {hero}.',
            "{hero} gave {friend} the first [flower|fruit].",
        ),
        ("And in fall {hero} had a whole [bag|handful] of new seeds.", "?From then on, {place} was full of flowers."),
    ),
    "race": (
        ("Every year there was a race {there}.", "Everybody {there} talked about the big race."),
        (
            "{hero} wanted to win it. But {friend}, {fwho}, was [faster|the fastest of all].",
            "{hero} was not fast, but {he} wanted to try.",
        ),
        (
            "On the day of the race, the weather was {weather}. They all stood [in a row|at the line].",
            '"One, two, three, go!" [called|cried] {his} {elder}.',
        ),
        (
            "{friend} ran ahead like the wind. {hero} was far behind.",
            "They ran as fast as they could. {friend} was first and {hero} was last.",
        ),
        (
            "Near {sight}, {hero} [heard a cry|saw something]. {friend} had [fallen|hurt {fhis} foot].",
            "Then {friend} [fell over a root|slipped on a wet stone].",
        ),
        ("{hero} could run on and win. But {he} [stopped|did not].", "?Now {hero} was first! {He} looked back."),
        (
            '"[Does it hurt|Can you walk]?" asked {hero}. "[Lean on me|Take my hand]."',
            "{He} helped {friend} up and gave {fhim} {his} arm.",
        ),
        (
            "Slowly they walked to the end, side by side. They were the last.",
            "Together they came to the line, long after the others.",
        ),
        (
            "But everyone cheered for them louder than for the winner.",
            '"You are the real [winner|hero] today," said {his} {elder}.',
        ),
        ("{hero} got no [cup|prize], but {he} had a friend.", "The next year they ran together, just for fun."),
    ),
    "letter": (
        (
            "One {weather} day, {hero} found a letter {spot}.",
            "There was a letter [on the step|in the old tree|under a stone] {there}.",
        ),
        (
            'On it was written: "To {friend}."',
            "It was for {friend}, {fwho} who lived [far away|on the other side of {place}].",
        ),
        (
            "?{hero} wanted to know what was inside, but {he} did not open it.",
            "?The paper was old and [yellow|wet from the rain].",
        ),
        (
            "So {he} put it in {his} bag and went [on {his} way|to find {friend}].",
            '"I must bring it to {fhim}," {hero} said.',
        ),
        (
            "The way was long. {He} walked {path} and past {sight}.",
            "{He} asked {his} {elder} for the way, and {ehe} showed {him}.",
        ),
        (
            "?Once {he} took a wrong turn, but {he} did not stop.",
            "?It began to rain, so {he} held the letter under {his} coat.",
        ),
        (
            "At last {he} [stood at the door|found the house]. {friend} opened [it|the door] and read the letter.",
            '{friend} was [at home|in the garden]. "A letter for me?" {fhe} asked.',
        ),
        (
            '{fHis} eyes grew [big|wet]. "It is from my brother," {fhe} said. "He is coming home!"',
            '"It is from an old friend," {fhe} said. "I waited for it for years."',
        ),
        (
            "{friend} [thanked|hugged] {hero} and gave {him} {food}.",
            '"Stay and eat with me," said {friend}. They had {food}.',
        ),
        (
            "Since that day, {hero} [writes letters too|brings the letters to everyone {there}].",
            "On the way home, {hero} felt light and [glad|happy].",
        ),
    ),
    "truth": (
        (
            "{hero} [ran through the room|played inside] although {he} was not allowed to.",
            "One {weather} day {hero} was [alone at home|bored]. {He} played [ball|catch] in the house.",
        ),
        (
            "There was a loud crash. The {color} [vase|cup|bowl] of {his} {elder} lay on the floor.",
            "Then it happened. {He} broke the {color} [plate|lamp|jug] of {his} {elder}.",
        ),
        (
            "{hero} [hid|swept up] the pieces and said nothing.",
            '"Oh no," {he} whispered. {He} [pushed|put] the pieces under the [rug|bed].',
        ),
        (
            'When {his} {elder} came home, {ehe} asked, "What happened here?" "It was the wind," said {hero}.',
            '"Who did this?" asked {his} {elder}. "{friend} did it," said {hero}.',
        ),
        (
            "But {his} stomach hurt, and {he} could not eat {food}.",
            "That night {hero} could not sleep. The lie was heavy.",
        ),
        ('?{friend}, {fwho}, said, "It is better to tell the truth."', "?{He} thought about it for a long time."),
        (
            'The next morning {hero} went to {his} {elder}. "It was me," {he} said. "I am sorry."',
            '"I broke it," said {hero} in a small voice. "I was afraid to tell you."',
        ),
        (
            '{His} {elder} [was quiet|looked at {him}]. Then {ehe} smiled. "[Thank you for telling me|Things can break. Trust is harder to mend]."',
            '{His} {elder} took {his} hand. "I am glad that you told me," {ehe} said.',
        ),
        ("Together they glued the pieces.", "{hero} helped to clean up and felt [light|much better]."),
        ("{hero} never lied about such a thing again.", "Now it stands on the shelf, and everyone can see the cracks."),
    ),
    "new": (
        ("{friend}, {fwho}, was new {there}.", "One day somebody new came to {place}. It was {friend}, {fwho}."),
        (
            "{fHe} did not know anyone and [stood alone|sat by {fhimself}].",
            "Nobody talked to {fhim}, because {fhe} was shy.",
        ),
        (
            "{hero} saw {fhim} and [thought of|remembered] {his} own first day.",
            '"Why does nobody play with {fhim}?" asked {hero}.',
        ),
        (
            '{He} went over. "Hello, I am {hero}. [Do you want to play|What is your name]?"',
            '{hero} took {his} {thing} and went to {fhim}. "[Would you like to try it|Do you like this {thing}]?" {he} asked.',
        ),
        (
            '{friend} looked up. "[Yes, I would like that|I am {friend}]," {fhe} said.',
            "At first {friend} said nothing. Then {fhe} smiled.",
        ),
        (
            "{hero} showed {fhim} everything: {sight}, the best place to [hide|sit] and the way home.",
            "They walked {path}, and {hero} told {fhim} who lived where.",
        ),
        (
            "{friend} could {skill}, and {hero} was [amazed|surprised].",
            "?{friend} told {him} about the place {fhe} came from.",
        ),
        ("Soon others came too, and they all played together.", "The next day they met again, and the day after that."),
        (
            '"[I was afraid to come here|I missed my old home]," said {friend}. "Now I am [glad|at home]."',
            'In the evening {friend} said, "Today was a good day."',
        ),
        ("And so {hero} had a new friend.", "?A kind word is a small thing, but it can [open a door|change a day]."),
    ),
    "build": (
        (
            "{hero} wanted to build a [boat|tree house|bridge|little cart].",
            '"Let us build a [raft|hut|swing]," said {hero} to {friend}, {fwho}.',
        ),
        ("{He} [collected|found] wood, rope and nails near {sight}.", "They needed wood, so they went {path}."),
        (
            "{hero} [started at once|did not make a plan]. {He} wanted to be quick.",
            "They worked from morning to evening.",
        ),
        (
            "But it [fell apart|broke] at the first try.",
            "The first one was [too small|crooked] and fell down with a crash.",
        ),
        ("?{friend} laughed, and then {hero} laughed too.", "?{hero} was angry and kicked a stone."),
        (
            '"We need a plan," said {friend}. {fHe} drew it in the sand.',
            '{His} {elder} looked at it. "Measure twice, cut once," {ehe} said.',
        ),
        (
            "This time they [measured everything|took their time|worked slowly].",
            "They tied the rope with good knots and tested every board.",
        ),
        ("After [three days|a week], it was ready.", "At last it stood there, strong and [straight|beautiful]."),
        ("They painted it {color} and gave it a name.", '"We did it!" [shouted|said] {hero} and {friend}.'),
        (
            "All summer long they [played|sat] there {there}.",
            "And it still stands there today.",
            "?{His} {elder} was the first guest.",
        ),
    ),
    "market": (
        (
            '{His} {elder} sent {hero} to the market. "Bring {food} and nothing else," {ehe} said.',
            "One {weather} morning, {hero} went to the market with a few coins.",
        ),
        (
            "The market was full of [noise|people and smells].",
            "There were so many things: lamps, cloth, toys and [bread|honey].",
        ),
        (
            "{hero} saw {a_thing}. It was {color} and very [beautiful|fine].",
            "At one table there was {a_thing}, and {hero} wanted to have it.",
        ),
        (
            "{He} counted {his} coins. There was just enough [for one of them|for the {thing}].",
            '"How much is it?" {he} asked. "[All that you have in your hand|Three coins]," said the seller.',
        ),
        ("?{hero} thought of {his} {elder} at home.", "?It was hard to [choose|walk away]."),
        ("Then {he} shook {his} head and bought {food}.", '"No, thank you," said {hero}. "I came for {food}."'),
        (
            "On the way home {he} met {friend}, {fwho}, who [carried|pulled] a heavy bag.",
            "{friend}, {fwho}, had dropped {fhis} basket, and everything rolled away.",
        ),
        (
            '{hero} helped {fhim}. "Thank you," said {friend}. "Take this." It was {a_thing}!',
            "{hero} helped {fhim}, and {friend} gave {him} a [{color} ribbon|shiny coin].",
        ),
        ("At home {his} {elder} was [proud|pleased].", "{hero} told {his} {elder} everything, and they laughed."),
        ("They sat down and ate {food}.", "It was the best {food_noun} that {hero} had ever eaten."),
    ),
    "snow": (
        (
            "One morning everything was white. It had snowed all night {there}.",
            '{hero} looked out of the window. "Snow!" {he} cried.',
        ),
        (
            "{He} put on {his} [boots|hat and gloves] and ran outside.",
            "The snow was [deep and soft|up to {his} knees].",
        ),
        ("{friend}, {fwho}, was there already.", "{He} called {friend}, {fwho}, and they went {path}."),
        (
            "They made a [big snowman|snow fox|snow house] near {sight}.",
            "They threw snowballs and [fell down laughing|made angels in the snow].",
        ),
        (
            "For the nose they took a carrot, and {hero} gave it {his} {color} scarf.",
            "It had stones for eyes and a [stick|pine cone] for a nose.",
        ),
        ("?Their hands were cold, but they did not want to go home.", "?A [robin|crow] sat on its head."),
        ('Then {his} {elder} called, "Come in, there is {food}!"', "In the evening they were [wet|cold] and hungry."),
        ("They sat by the [fire|stove] and [ate|shared] {food}.", "Inside it was warm, and they told stories."),
        (
            "The next day the sun shone, and the snow [was gone|began to melt].",
            "When the sun came back, only the scarf was left.",
        ),
        (
            '"Where did it go?" asked {friend}. "Into the river," said {hero}. "It will come back [next winter|as rain]."',
            "{hero} was not sad. {He} waited for the next snow.",
        ),
    ),
    "way": (
        (
            "One {weather} day, {hero} went [for a walk|to pick berries] {spot}.",
            "{hero} followed a {color} butterfly away from home.",
        ),
        ("{He} walked and walked and did not look back.", "{He} did not see how far {he} had gone."),
        ("Soon {he} did not know where {he} was.", "When {he} turned around, everything looked [strange|the same]."),
        ("The sun went down, and it grew [cold|dark].", '?"Hello?" called {hero}. Only the wind answered.'),
        (
            "{He} sat down on a stone and [cried a little|thought].",
            '{He} remembered what {his} {elder} had said: "If you are lost, [stay where you are|follow the water]."',
        ),
        (
            'Then {friend}, {fwho}, came by with a lamp. "Are you lost?" {fhe} asked.',
            "A light came nearer. It was {friend}, {fwho}.",
        ),
        (
            '"I want to go home," said {hero}. "I know the way," said {friend}.',
            '"Take my hand," said {friend}. "It is not far."',
        ),
        (
            "They walked past {sight} and over a little bridge.",
            "On the way {friend} showed {him} how to find north by the stars.",
        ),
        (
            "[At last|Soon] {he} saw the lights of home. {His} {elder} ran to {him}.",
            "{His} {elder} stood at the door and [waved|held {him} close].",
        ),
        (
            '"Never go so far alone," {ehe} said. {hero} [nodded|promised].',
            "They thanked {friend} and gave {fhim} {food}.",
        ),
        (
            "The next time, {hero} took {a_thing}, a map and {friend} with {him}.",
            "?{hero} still likes to walk, but now {he} looks back.",
        ),
    ),
    "cake": (
        (
            "{hero} wanted to bake a cake for {his} {elder}.",
            "One {weather} day, {hero} and {friend}, {fwho}, [baked|wanted to bake] a cake.",
        ),
        (
            "{He} took flour, eggs, milk and sugar.",
            "They needed flour and eggs, and {friend} brought [honey|apples|nuts].",
        ),
        (
            "{hero} [mixed everything in a big bowl|broke the eggs with care].",
            "There was flour [on the floor|everywhere], even on {his} nose.",
        ),
        (
            '?"How much salt?" asked {friend}. "A lot," said {hero}. That was a mistake.',
            "?They sang while they worked.",
        ),
        ("The cake went into the oven, and they waited.", "Soon the whole house smelled [sweet|of cake]."),
        ("But they began to play with {a_thing} and forgot the time.", "Then {hero} fell asleep on the chair."),
        (
            "When {he} opened the oven, the cake was [black|flat|as hard as a stone].",
            '"The cake!" cried {hero}. It was burned on one side.',
        ),
        (
            '{hero} was sad. "[Everything is ruined|Now I have no cake]," {he} said.',
            '{friend} looked at it. "We can cut off the [black part|bad side]," {fhe} said.',
        ),
        (
            "They put [berries|cream] on top, and it looked [fine|funny].",
            "So they began again, and this time they watched the clock.",
        ),
        (
            '{His} {elder} ate two pieces. "[It is the best cake I ever had|I can taste that you made it]," {ehe} said.',
            "In the evening they all ate cake and laughed.",
        ),
    ),
    "wish": (
        (
            "One night, {hero} saw a falling star over {place}.",
            "{hero} sat {there} and looked at the stars. One of them fell.",
        ),
        ('"Make a wish," said {friend}, {fwho}.', "{His} {elder} had told {him} that you may wish for one thing then."),
        (
            "{hero} thought of {a_thing}. {He} thought of {food}. {He} thought of many things.",
            "What should {he} wish for? {A_thing}? Or to {skill}?",
        ),
        ("?It was not easy to choose.", '?"Do not tell it, or it will not come true," said {friend}.'),
        (
            "Then {he} [saw|remembered] that {friend} was [sad|ill|all alone].",
            "{He} looked at {friend}. {fHe} had [lost {fhis} {thing}|no warm coat].",
        ),
        (
            "So {hero} closed {his} eyes and wished for something for {friend}.",
            '"I wish that {friend} is happy again," {he} thought.',
        ),
        (
            'The next morning, {friend} came running. "[Something wonderful happened|You will not believe it]!" {fhe} called.',
            "The next day {friend} [smiled|was well again].",
        ),
        (
            "{hero} [said nothing|only smiled] and looked at the sky.",
            '"Was that your wish?" asked {friend}. {hero} only laughed.',
        ),
        ("And {he} found that {he} was happy too.", "A wish for a friend is a wish for two."),
    ),
    "noise": (
        (
            "Every night there was a noise [in the attic|behind the wall|in the old mill].",
            "Tap, tap, tap. {hero} heard it every evening {there}.",
        ),
        ('"It is a ghost," said {friend}, {fwho}.', "Nobody knew what it was. Some said it was a [ghost|giant]."),
        (
            "{hero} wanted to know. {He} took {a_thing} and a lamp.",
            '"I do not believe in ghosts," said {hero}. "Come with me."',
        ),
        ("They went up the stairs, step by step.", "They walked on their toes and [held hands|did not speak]."),
        ("Tap, tap, tap. It was [very near|louder now].", "?{friend} wanted to go back, but {hero} went on."),
        (
            "{hero} opened the door. There sat [a small owl|a woodpecker|a family of mice]!",
            "Behind an old box they found [a kitten|a little hedgehog]. It was looking for food.",
        ),
        (
            'They looked at each other and laughed. "So that is our ghost," said {friend}.',
            '"It is more afraid than we are," said {hero}.',
        ),
        ("They gave it [some water|crumbs|a warm place].", "{His} {elder} said that it may stay."),
        ("Now, when {hero} hears the noise, {he} smiles and goes to sleep.", "?To look is better than to be afraid."),
    ),
    "elder": (
        (
            "{His} {elder} was old and could not [walk far|see well] any more.",
            "Every Sunday {hero} went to see {his} {elder} {there}.",
        ),
        (
            '"What would you like most?" asked {hero}. "To see {sight} once more," {ehe} said.',
            '"When I was young," {ehe} said, "I could {skill}."',
        ),
        ("{hero} [thought about it|had an idea]. {He} went to {friend}, {fwho}.", "That night {hero} made a plan."),
        (
            '{friend} had [a cart|a little boat|a kind horse]. "I will help," {fhe} said.',
            "Together they made a chair with wheels.",
        ),
        (
            'On a {weather} morning they came to the door. "Where are we going?" asked {his} {elder}. "It is a secret," said {hero}.',
            "They took {food} and a blanket with them.",
        ),
        (
            "They went {path}. The birds sang, and the air smelled [of grass|fresh].",
            "It was a long way, but nobody was tired.",
        ),
        (
            "Then they were there. {His} {elder} [said nothing|had tears in {ehis} eyes].",
            '"Look!" said {hero}. {His} {elder} looked at {sight} for a long time.',
        ),
        (
            '"This is the best day of the year," {ehe} said.',
            "They ate {food}, and {his} {elder} told them how it was long ago.",
        ),
        ("On the way home {ehe} sang an old song.", "{hero} held {ehis} hand all the way home."),
    ),
    "quarrel": (
        (
            "{hero} and {friend}, {fwho}, were best friends. But one day they had a fight about {a_thing}.",
            "{hero} and {friend} both wanted the {color} {thing}.",
        ),
        (
            '"It is mine!" said {hero}. "No, mine!" said {friend}.',
            "They pulled at the {thing} until it [broke|tore] in two.",
        ),
        (
            "They did not speak to each other for [a week|three days].",
            '"I will never play with you again," said {friend} and went home.',
        ),
        (
            "{hero} played alone {there}, but it was [boring|no fun].",
            "Everything was quiet. {hero} [missed|thought of] {friend}.",
        ),
        (
            '?{His} {elder} asked, "What is more important, the {thing} or your friend?"',
            "?{He} wanted to say sorry, but it was hard.",
        ),
        (
            "So {hero} [mended|repaired] the {thing} with [glue|thread] and walked {path}.",
            "In the end {hero} took {food} and went to the house of {friend}.",
        ),
        (
            "On the way {he} met {friend}. {fHe} was coming to {him}!",
            "{friend} opened the door before {he} could knock.",
        ),
        (
            '"I am sorry," they both said at the same time. Then they laughed.',
            '"You can have it," said {hero}. "No, you," said {friend}.',
        ),
        ("Now the {thing} lives one week here and one week there.", "They shared everything from then on."),
    ),
    "map": (
        (
            "In an old book, {hero} found a map of {place}.",
            "One {weather} day {hero} and {friend}, {fwho}, found a map {spot}.",
        ),
        ("There was a {color} cross near {sight}.", "On it was a line, a tree and a {color} cross."),
        (
            '"A treasure!" said {hero}. "[Let us go|Come on]."',
            '"Maybe it is gold," said {friend}. {fHis} eyes were big.',
        ),
        ("They took a shovel and {food} and went on their way.", "They counted a hundred steps from the old tree."),
        (
            "The way led over a hill and through [a stream|high grass].",
            "?Twice they went wrong and had to start again.",
        ),
        ("Then they dug. The hole grew deeper and deeper.", "{hero} dug until {his} arms were tired."),
        ("Clunk! There was a [box|chest].", "At last they hit something hard."),
        (
            'Inside was no gold. There was {a_thing} and a note: "[For the one who did not give up|Play with it and put it back]."',
            "In it lay {a_thing}, a few coins and an old picture.",
        ),
        (
            '"And look, here is a picture of your {elder} as a child!" said {friend}.',
            "They laughed. It was a good treasure, because they had found it together.",
        ),
        (
            "They put {a_thing2} into the box and buried it for the next one.",
            "{hero} kept the map and made a new one for others.",
        ),
    ),
}
