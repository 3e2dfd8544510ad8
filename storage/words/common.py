"""The commonest words of languages in Latin letters, folded: what tells a text's language."""

from __future__ import annotations

ENGLISH = "english"

COMMON = {
    ENGLISH: (
        "die man war hat men "
        "a about all am an and any are as at be been but by can could did do does for from get go got had has have "
        "he her him his how i if in into is it its just know like me my no not of on one or our out she so some "
        "than that the their them then there they this to up us was we were what when where which who why will with "
        "would you your yes good really think want time day new work love don doesn didn isn m s t ve ll re"
    ),
    "german": (
        "aber als am an auch auf aus bei bin bis da das dass dem den der des die diese dieser doch du durch ein "
        "eine einem einen einer er es fur haben hat hatte ich ihr ihre im in ist ja kann kein keine mein meine mich "
        "mir mit nach nicht noch nur oder schon sehr sein sich sie sind so uber um und uns unter vom von vor war "
        "waren warum was wenn wer werden wie wir wird wo zu zum zur"
    ),
    "french": (
        "ai alors au aussi aux avec avoir ce cette ces comme dans de des depuis du elle elles en est et etait etre "
        "fait il ils j je l la le les leur lui ma mais me mes mon n ne nous on ou par pas plus pour qu quand que "
        "quel quelle qui quoi sa sans se ses son sont sur ta te tes ton tous tout tres tu un une vous c d"
    ),
    "spanish": (
        "a al algo como con cual cuando de del desde donde el ella ellos en era es esta este esto estoy fue ha hay "
        "he hoy la las le les lo los mas me mi mis mucho muy ni no nos o para pero por porque que quien se ser si "
        "sin sobre son soy su sus tambien te tiene todo tu un una unos usted y ya yo"
    ),
    "portuguese": (
        "a ao aos as com como da das de do dos e ela ele eles em era essa esse esta estou eu foi ha isso ja la mais "
        "mas me meu meus minha muito na nao nas no nos o onde os ou para pela pelo por porque quando que quem se "
        "sem ser seu seus so sua sao tambem tem tenho um uma voce"
    ),
    "italian": (
        "a ai al alla anche che chi ci come con cosa da dal dalla degli dei del della delle di dove e ed era gli ha "
        "hai ho i il in io la le lei lo loro lui ma mi mia mio molto nel nella noi non o per perche piu quando "
        "quello questa questo se si sono sta su sua sul suo ti tu tutto un una uno"
    ),
    "dutch": (
        "aan al als bij daar dan dat de deze die dit door een en er ge geen had heb heeft hem het hij hoe ik in is "
        "je kan maar me met mij mijn naar niet nog nu of om onder ons ook op over te toen tot u uit van veel voor "
        "waar wanneer was wat we wel werd wie wij worden ze zich zij zijn zo"
    ),
    "swedish": (
        "att av blev de dem den denna det dig din du efter ej en er ett fran for har hade han hans hon hur i inte "
        "jag kan man med mig min mina mitt mot mycket nar ni nu och om oss pa sa sig sin ska som till under upp ut "
        "vad var vara vi vid ar at"
    ),
    "danish": (
        "af alle at blev da de den der deres det dig din disse du efter eller en end er et for fra ham han har "
        "havde hendes hun hvad hvem hvor hvornar i ikke ind jeg jer kan man med meget men mig min mit nar nogle nu "
        "og ogsa om op os pa sig sin skal som til ud under var ved vi vil"
    ),
    "norwegian": (
        "av at bare ble da de den der dere det deg din du eller en er et etter for fra ha hadde han har hun hva "
        "hvem hvor hvordan i ikke jeg kan man med meg men mer min mitt mot mye na nar noe og ogsa om opp oss pa sa "
        "seg sin skal som til ut var ved vi vil"
    ),
    "finnish": (
        "ei en emme ehka eika ette han hanen he ja jo joka jos kanssa kun kuin kuka me mika mina minulla minun "
        "missa mita mutta myos nain ne niin nyt oli olen olet olla on ovat se sen sina sinun sita tai tama tassa te "
        "vain viela voi"
    ),
    "hungarian": (
        "a az azt aki ami amikor be de egy el en es ez ezt ha hogy hol is ki kell le meg mert mi mint most nagyon "
        "nem nincs ok o oket mar te van vagy vagyok volt voltam"
    ),
    "romanian": (
        "a acest aceasta ai al am ar are as au ca care ce cel cu cum da dar de din doar e ea ei el este eu fi fost "
        "in ia il la lui ma mai mea meu mi nu o pe pentru prin sa sau se si sunt te un unde unei va"
    ),
    "turkish": (
        "acaba ama ben bana beni benim bir biz bu cok da daha de degil en gibi hangi hem her icin ile ise kadar ki "
        "kim mi mu nasil ne neden nerede niye o olan oldu olarak onun sen su var ve veya ya yok"
    ),
    "polish": (
        "ale bardzo bo by byc byl byla co czy dla do gdzie go i ich jak jako jego jej jest jestem juz kiedy kto "
        "ktory ktora ma mam mi mnie moj moja na nie niz o od on ona oraz po pod sa sie tak tam te tego to tu ty w "
        "we z za ze"
    ),
    "czech": (
        "a ale asi az bude by byl byla co do i ja jak jako je jeho jejich jen jeste jsem jsou k kde kdo kdyz ktera "
        "ktery ma mam me mi na nebo neni o od po pro proc protoze s se si ta tak to tu ty u uz v ve z za ze"
    ),
    "catalan": (
        "a al amb aquest aquesta als com de del dels el ella els em en era es esta ha he hi i jo la les li mes meu "
        "molt meva no o on per pero que qui se sense si son soc tambe te tinc un una va van vaig"
    ),
    "indonesian": (
        "ada adalah akan aku anda apa atau bahwa banyak bisa dalam dan dari dengan di dia hari ini itu juga kami "
        "karena ke kita mereka oleh pada saat saya sebuah sudah telah tidak untuk yang"
    ),
}
"""By language, as Snowball names it. Languages later in order lose where two have as many words."""
