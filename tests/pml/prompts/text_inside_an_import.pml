<!-- text_inside_an_import.pml:3:11: text 'Go on.' in <budget>; expected it after all imports -->
<prompt schema="trip">
  <budget>Go on.</budget>
</prompt>
