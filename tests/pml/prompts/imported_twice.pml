<!-- imported_twice.pml:4:3: module 'budget' is imported twice; expected once -->
<prompt schema="trip">
  <budget/>
  <budget/>
  Go on.
</prompt>
