<!-- no_text_of_its_own.pml:2:1: the prompt has no text of its own; expected some after its imports -->
<prompt schema="trip">
  <budget/>
</prompt>
